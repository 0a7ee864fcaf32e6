"""Keys: what is made, who may read it, that TLS accepts it for the names it is for and for no others."""

from __future__ import annotations

import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from flotilla.deploy.registry import write_connection
from flotilla.deploy.tls_keys import make_keys, public_keys

PRIVATE = {"ca.key", "tls.key", "auth", "secret"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("federation") / "keys"
    make_keys(folder, 2, ["10.1.2.3", "sea.example.org"])
    return folder


def test_private_files_are_for_their_owner_only(keys: Path) -> None:
    files = [path for path in keys.rglob("*") if path.is_file()]
    assert len(files) == 2 + 3 + 2 + 2 * 5
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == (0o600 if path.name in PRIVATE else 0o644), path
        assert (b"PRIVATE" in path.read_bytes()) == (path.name in PRIVATE - {"secret"}), path


def test_nothing_is_made_twice_and_nodes_can_be_added(keys: Path) -> None:
    before = {path: path.read_bytes() for path in keys.rglob("*") if path.is_file()}
    assert make_keys(keys, 2) == []
    made = make_keys(keys, 3)
    assert {path.parent.name for path in made} == {"node-2"}
    assert {path: path.read_bytes() for path in before} == before


def test_nodes_prove_themselves_with_p384(keys: Path) -> None:
    told = public_keys(keys)
    assert len(set(told.values())) == len(told) >= 2
    for node, pem in told.items():
        private = serialization.load_ssh_private_key((keys / f"node-{node}" / "auth").read_bytes(), None)
        public = serialization.load_pem_public_key(pem)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        assert isinstance(private.curve, ec.SECP384R1)
        assert private.public_key() == public


def shake(folder: Path, authority: Path, name: str) -> None:
    """One TLS handshake with a server that has the certificate in `folder`."""
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    trusting = ssl.create_default_context(cafile=str(authority))
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT
    here, there = socket.socketpair()

    def answer() -> None:
        try:
            served.wrap_socket(there, server_side=True).close()
        except OSError:
            there.close()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with here, trusting.wrap_socket(here, server_hostname=name) as tls:
            assert tls.version() == "TLSv1.3"
    finally:
        here.close()
        thread.join()


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("superlink", "localhost"),
        ("superlink", "127.0.0.1"),
        ("superlink", "superlink"),
        ("proxy", "localhost"),
        ("proxy", "proxy"),
        ("proxy", "10.1.2.3"),
        ("proxy", "sea.example.org"),
        ("node-1", "supernode-1"),
        ("node-1", "127.0.0.1"),
    ],
)
def test_certificates_are_for_their_names(keys: Path, folder: str, name: str) -> None:
    shake(keys / folder, keys / "ca.crt", name)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("superlink", "supernode-1"),
        ("superlink", "sea.example.org"),
        ("proxy", "superlink"),
        ("node-1", "supernode-0"),
    ],
)
def test_certificates_are_for_no_other_names(keys: Path, folder: str, name: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake(keys / folder, keys / "ca.crt", name)


def test_another_authority_is_not_trusted(keys: Path, tmp_path: Path) -> None:
    make_keys(tmp_path / "other", 1)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(keys / "superlink", tmp_path / "other" / "ca.crt", "localhost")


def test_flwr_reads_the_connection_and_others_stay(keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flwr.cli.flower_config import read_superlink_connection

    write_connection(tmp_path, "look", "127.0.0.1:8001", None)
    write_connection(tmp_path, "compose", "127.0.0.1:8000", keys / "ca.crt")
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    secure, insecure = read_superlink_connection("compose"), read_superlink_connection("look")
    assert secure.address == "127.0.0.1:8000"
    assert not secure.insecure
    assert secure.root_certificates == str(keys / "ca.crt")
    assert (insecure.address, insecure.insecure) == ("127.0.0.1:8001", True)
