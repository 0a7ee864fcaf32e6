"""Keys of a federation: an authority, the SuperLink's certificate, and what each node needs.

    keys/ca.crt            what every part trusts
    keys/ca.key            signs new certificates; no part of the federation needs it, so keep it elsewhere
    keys/superlink/        tls.crt, tls.key: for who reaches the SuperLink itself, on its own host
    keys/proxy/            tls.crt, tls.key: for the proxy in front of it, which devices reach (edge/proxy.cfg)
    keys/node-0/, …        auth, auth.pub: the key that the node proves itself with (EC P-384, OpenSSH, as flwr has it)
                           tls.crt, tls.key: for the node's own interface, which its ClientApp talks to
    */secret               with which a SuperExec proves itself to the SuperLink or SuperNode beside it

A folder holds what one machine must have, and nothing else leaves for it but `ca.crt`. What exists is left as it is, so
the command also adds nodes. Private files are readable by their owner only.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from secrets import token_bytes

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_CURVE = ec.SECP384R1
_AUTHORITY_DAYS, _CERTIFICATE_DAYS = 3650, 825


def node_folder(keys: Path, node: int) -> Path:
    """Where a node's keys are."""
    return keys / f"node-{node}"


def make_keys(keys: Path, nodes: int, hosts: Sequence[str] = (), owner: int | None = None) -> list[Path]:
    """Make whatever is missing.

    Args:
        keys: folder; made if need be.
        nodes: number of nodes.
        hosts: names and addresses at which nodes reach the proxy, beside this machine's own `localhost` and the name
            `proxy` that it has in docker-compose.yml.
        owner: user id that the federation's processes have (as root only; `ca.key` stays ours).

    Returns:
        The private files and certificates made.
    """
    keys.mkdir(mode=0o755, parents=True, exist_ok=True)
    made: list[Path] = []
    if not (keys / "ca.key").exists():
        made += _authority(keys)
    for folder, names in [
        (keys / "superlink", ["superlink"]),
        (keys / "proxy", ["proxy", *hosts]),
        *((node_folder(keys, node), [f"supernode-{node}"]) for node in range(nodes)),
    ]:
        folder.mkdir(mode=0o755, exist_ok=True)
        if not (folder / "tls.crt").exists():
            made += _certificate(keys, folder, ["localhost", "127.0.0.1", "::1", *names])
        if folder.name != "proxy" and not (folder / "secret").exists():
            made.append(_write(folder / "secret", token_bytes(32), private=True))
        if folder.name.startswith("node-") and not (folder / "auth").exists():
            made += _node_key(folder)
        if owner is not None:
            for path in (folder, *folder.iterdir()):
                os.chown(path, owner, owner)
    return made


def public_keys(keys: Path) -> dict[int, bytes]:
    """Read the public key of every node, as flwr's Control API takes it (PEM)."""
    found = {}
    for path in keys.glob("node-*/auth.pub"):
        key = serialization.load_ssh_public_key(path.read_bytes())
        found[int(path.parent.name.removeprefix("node-"))] = key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    return dict(sorted(found.items()))


def _authority(keys: Path) -> list[Path]:
    key = ec.generate_private_key(_CURVE())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Flotilla federation")])
    builder = _builder(name, name, key, _AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(authority=True), critical=True)
    return [
        _write(keys / "ca.key", _pem(key), private=True),
        _write(keys / "ca.crt", builder.sign(key, hashes.SHA384()).public_bytes(serialization.Encoding.PEM)),
    ]


def _certificate(keys: Path, folder: Path, names: Sequence[str]) -> list[Path]:
    """Make a server certificate that our authority signs."""
    signer = serialization.load_pem_private_key((keys / "ca.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    authority = x509.load_pem_x509_certificate((keys / "ca.crt").read_bytes())
    key = ec.generate_private_key(_CURVE())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, folder.name)])
    builder = _builder(subject, authority.subject, key, _CERTIFICATE_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(authority=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
    )
    alternatives = x509.SubjectAlternativeName([_name(name) for name in dict.fromkeys(names)])
    builder = builder.add_extension(alternatives, critical=False)
    return [
        _write(folder / "tls.key", _pem(key), private=True),
        _write(folder / "tls.crt", builder.sign(signer, hashes.SHA384()).public_bytes(serialization.Encoding.PEM)),
    ]


def _node_key(folder: Path) -> list[Path]:
    key = ec.generate_private_key(_CURVE())
    openssh = serialization.PrivateFormat.OpenSSH
    private = key.private_bytes(serialization.Encoding.PEM, openssh, serialization.NoEncryption())
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return [_write(folder / "auth", private, private=True), _write(folder / "auth.pub", public + b"\n")]


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    began = datetime.now(UTC) - timedelta(hours=1)  # boards without a clock of their own may be behind
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(began).not_valid_after(began + timedelta(days=days))
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    pkcs8 = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, pkcs8, serialization.NoEncryption())


def _write(path: Path, content: bytes, *, private: bool = False) -> Path:
    """Write a file that never exists with wider rights than it shall have."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o644)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
    return path
