"""The k largest coordinates of a vector, and a set of k indices as bytes.

A set is written as packed indices of ceil(log2 p) bits or as a bitmap of p bits, whichever is shorter, and not at all
where everything is kept; both ends know from k and p which. k is the share of p, rounded up, at least 1.

Top-k is a contraction (Stich et al., NeurIPS 2018, Lemma A.1): ‖C(v) - v‖² ≤ (1 - k/p) ‖v‖².
"""

from __future__ import annotations

from math import lgamma, log

import numpy as np
import torch
from torch import Tensor

from protocol.arrays import WireError
from protocol.codecs.bits import Octets, pack, packed_length, unpack


def largest(values: Tensor, k: int) -> Tensor:
    """Indices (int64, ascending) of the k largest magnitudes; among equal ones the first.

    Raises:
        ValueError: NaN or infinity.
    """
    if not bool(values.isfinite().all()):
        raise ValueError("the difference is not finite")
    if k == len(values):
        return torch.arange(k)
    magnitudes = values.abs()
    threshold = torch.topk(magnitudes, k, sorted=False).values.min()
    above = torch.nonzero(magnitudes > threshold).view(-1)
    equal = torch.nonzero(magnitudes == threshold).view(-1)
    return torch.cat([above, equal[: k - len(above)]]).sort().values


def indices_length(k: int, count: int) -> int:
    """Bytes of a set of k indices below `count`."""
    if k == count:
        return 0
    return packed_length(count, 1) if _as_bitmap(k, count) else packed_length(k, _width(count))


def write_indices(indices: Tensor, count: int) -> bytes:
    """Write an ascending set of indices."""
    k = len(indices)
    if k == count:
        return b""
    if _as_bitmap(k, count):
        held = np.zeros(count, np.uint8)
        held[indices.numpy()] = 1
        return pack(held, 1).tobytes()
    return pack(indices.numpy().astype(np.uint32), _width(count)).tobytes()


def read_indices(data: Octets, k: int, count: int) -> Tensor:
    """Read k ascending indices below `count`.

    Raises:
        WireError: it is no such set.
    """
    if k == count:
        return torch.arange(k)
    if _as_bitmap(k, count):
        found = np.flatnonzero(unpack(data, count, 1))
    else:
        found = unpack(data, k, _width(count)).astype(np.int64)
    if len(found) != k or found[-1] >= count or not bool((found[1:] > found[:-1]).all()):
        raise WireError(f"not {k} ascending indices below {count}")
    return torch.from_numpy(found)


def indices_entropy(k: int, count: int) -> float:
    """Bytes of the logarithm of the number of sets of k out of `count`."""
    return (lgamma(count + 1) - lgamma(k + 1) - lgamma(count - k + 1)) / log(2) / 8


def _width(count: int) -> int:
    return (count - 1).bit_length()


def _as_bitmap(k: int, count: int) -> bool:
    return count <= k * _width(count)
