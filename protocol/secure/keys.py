"""Key pairs as text, and what two of them agree on."""

from __future__ import annotations

from base64 import urlsafe_b64decode

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePrivateKey, EllipticCurvePublicKey

from protocol.arrays import WireError
from protocol.secure.flwr_blocks import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    generate_shared_key,
    private_key_to_bytes,
    public_key_to_bytes,
)


def new_pair() -> tuple[str, str]:
    """A private key and its public key, as PEM; drawn from the operating system's generator."""
    private, public = generate_key_pairs()
    return private_key_to_bytes(private).decode("ascii"), public_key_to_bytes(public).decode("ascii")


def public_key(text: str) -> EllipticCurvePublicKey:
    """Read a public key of a peer's.

    Raises:
        WireError: it is no key of the curve P-384.
    """
    try:
        key: object = bytes_to_public_key(text.encode("ascii"))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise WireError(f"no public key ({type(error).__name__})") from None
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP384R1):
        raise WireError("no public key of the curve P-384")
    return key


def private_key(pem: bytes, public: str) -> EllipticCurvePrivateKey:
    """Read a private key, which must be the one of a public key.

    Raises:
        ValueError: it is not.
    """
    key: object = bytes_to_private_key(pem)
    if not isinstance(key, EllipticCurvePrivateKey) or public_key_to_bytes(key.public_key()).decode("ascii") != public:
        raise ValueError("not the private key of this public key")
    return key


def sealing_key(private: EllipticCurvePrivateKey, public: EllipticCurvePublicKey) -> bytes:
    """What two nodes encrypt for each other with."""
    return generate_shared_key(private, public)


def mask_key(private: EllipticCurvePrivateKey, public: EllipticCurvePublicKey) -> bytes:
    """The 32 bytes from which two nodes draw the mask that they have in common."""
    return urlsafe_b64decode(generate_shared_key(private, public))
