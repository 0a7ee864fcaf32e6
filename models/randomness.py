"""The only source of randomness: generators keyed by what is drawn, never by what was drawn before.

A draw depends on (seed, round, node, purpose) and on nothing else, so the order of clients cannot matter, a node that
joins changes nobody else's draws, and a resumed run continues exactly as the uninterrupted one would have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def _words(seed: int, round_number: int, node: str | int, purpose: str) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    """Hash the key into four 32-bit words; text and numbers cannot collide because each part is length-prefixed."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (str(seed), str(round_number), str(node), purpose):
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(4, "little") + encoded)
    return np.frombuffer(digest.digest(), dtype="<u4")


def generator(seed: int, round_number: int, node: str | int, purpose: str) -> np.random.Generator:
    """Return the NumPy generator of one purpose.

    Args:
        seed: seed of the run.
        round_number: server round, 1-based; 0 is before the first round.
        node: stable id of the client (its partition id or registered name), or "server". Never flwr's node id, which
            is drawn anew in every run.
        purpose: what is drawn, such as "select" or "batches".
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(_words(seed, round_number, node, purpose))))


def torch_generator(seed: int, round_number: int, node: str | int, purpose: str) -> torch.Generator:
    """Return a CPU `torch.Generator` under the same key (see `generator`)."""
    low, high = (int(word) for word in _words(seed, round_number, node, purpose)[:2])
    return torch.Generator().manual_seed((high << 32 | low) & (2**63 - 1))


@contextmanager
def seeded_for_others(seed: int) -> Iterator[None]:
    """Seed PyTorch's own generator for code that is not ours and draws from it; afterwards it is as it was before."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        yield


@contextmanager
def numpy_seeded_for_others(draws: np.random.Generator) -> Iterator[None]:
    """Seed NumPy's own generator, from another, for code that is not ours and draws from it; as it was afterwards."""
    before = np.random.get_state()  # noqa: NPY002 (that is the one such code draws from)
    np.random.seed(draws.integers(2**32, size=4, dtype=np.uint32))  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
