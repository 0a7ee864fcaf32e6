"""Batches as row numbers: the examples lie in one tensor, so there is nothing to load and no worker to do it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from models.errors import SettingError

_AT_ONCE = 1 << 20  # numbers of the inputs that are picked at once


def batches(count: int, batch_size: int, generator: torch.Generator, epochs: int, steps: int = 0) -> Iterator[Tensor]:
    """Yield the rows of each batch, int64 [<= batch_size + 1], for a number of passes over the examples, or of batches.

    Each pass is a fresh permutation in which every example occurs once; the short batch at its end is kept. A last
    batch of one example joins the one before it, because batch norm cannot normalise a single example; so a batch has
    one example only where there is one example, or where `batch_size` is 1.

    Args:
        count: number of examples.
        batch_size: at least 1.
        generator: where the permutations come from (a CPU generator).
        epochs: number of passes.
        steps: number of batches, in place of passes: as many passes as they need, the last one cut short; 0 is off.

    Raises:
        SettingError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise SettingError("batch-size", batch_size, "a whole number of at least 1")
    starts = list(range(0, count, batch_size))
    if len(starts) > 1 and batch_size > 1 and count % batch_size == 1:
        starts.pop()
    ends = [*starts[1:], count]
    left = steps if steps and count else epochs * len(starts)
    while left > 0:
        order = torch.randperm(count, generator=generator)
        for start, end in list(zip(starts, ends, strict=False))[:left]:
            yield order[start:end]
        left -= len(starts)


def most_together(batch_size: int, count: int, numbers: int) -> int:
    """How many batches' examples are to be picked at once: picking costs as much for a few as for many.

    Where a batch is augmented it is one: what is done to it draws from the generator of the next one's rows.

    Args:
        batch_size: of a batch.
        count: number of examples.
        numbers: of an example's inputs.
    """
    return max(1, _AT_ONCE // max(1, numbers) // max(1, min(batch_size, count)))
