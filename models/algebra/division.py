"""How an average ends: previous + scale · numerators / denominators, with one denominator per unit.

A 3x3 kernel has nine coordinates and one denominator. PyTorch's loop over nine numbers that meet one is no vector
loop, so the division costs twice what the memory does. Boxes leave few kinds of rows, though: rows of equal
denominators, one after the other, are divided by one row in which each denominator stands as often as it is met. The
bits are the same; which numbers are divided by which does not depend on how.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

# Below this a tensor is in the caches, and looking for rows costs what they spare.
_LEAST = 1 << 18
# How many rows have to share their denominators on average.
_SHARED = 16
_BYTES = 8  # flags are looked through by the word


def divide(
    previous: Tensor, numerators: Tensor, denominators: Tensor, *, scale: float, least: float, out: Tensor
) -> None:
    """Write previous + scale · numerators / max(denominators, least).

    Args:
        previous: of the shape of `numerators`; `out` may be the same memory.
        numerators: (units, coordinates of a unit, units, ...), contiguous.
        denominators: one for each unit: (units, 1, units, ...), contiguous.
        scale: one factor for all.
        least: what a denominator counts as at least.
        out: of the shape of `numerators`.
    """
    starts = None
    if numerators.numel() >= _LEAST and numerators.numel() > denominators.numel():
        starts = _changes(denominators.flatten(1))
    if starts is None or len(starts) * _SHARED > len(denominators):
        torch.addcdiv(previous, numerators, denominators.clamp(min=least), value=scale, out=out)
        return
    for start, end in pairwise([*starts, len(denominators)]):
        row = denominators[start].clamp(min=least).expand(numerators.shape[1:]).contiguous()
        torch.addcdiv(previous[start:end], numerators[start:end], row, value=scale, out=out[start:end])


def _changes(rows: Tensor) -> list[int] | None:
    """Where rows begin that differ from the row before; None if they are too short to be looked through by the word."""
    if rows.shape[1] % (2 * _BYTES):
        return None
    words = rows.view(torch.int64)
    unequal = words[1:].ne(words[:-1]).view(torch.int64).amax(1)  # bytes of 0 and 1, so that the largest says if any is
    return [0, *unequal.nonzero().flatten().add_(1).tolist()]
