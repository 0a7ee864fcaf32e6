"""Masks: whole numbers modulo 2^32 that nobody without the key can tell from chance.

A mask is the key stream of ChaCha20 (RFC 8439) under a key of 32 bytes that is used once: a cipher's, because a mask is
a secret and not a sample.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

SEED_BYTES = 32
_NONCE = bytes(16)  # no key is used twice
Masked = NDArray[np.uint32]


def mask(key: bytes, length: int) -> Masked:
    """Draw a mask.

    Args:
        key: 32 bytes.
        length: how many numbers; read-only.
    """
    stream = Cipher(ChaCha20(key, _NONCE), mode=None).encryptor()
    return np.frombuffer(stream.update(bytes(4 * length)), dtype="<u4")
