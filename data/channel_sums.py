"""Mean and deviation of every channel from sums, which add over chunks, files and devices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

_MOST = 512  # examples that are widened at a time: copies that fit the processor's cache are four times faster
_CHUNK = 2**24  # bytes of them


def channel_sums(values: NDArray[np.generic]) -> tuple[float, ...]:
    """Values per channel, then their sum and the sum of their squares by channel, of examples [N, C, ...].

    Summed by NumPy in float64, in one thread and so always in the same order: every process gets the same bits, and
    sums of bytes are exact besides (whole numbers below 2**53). Chunks are bounded in bytes, whatever an example takes.
    """
    others = (0, *range(2, values.ndim))
    total = np.zeros(values.shape[1])
    squares = np.zeros_like(total)
    step = chunk_of(values)
    for start in range(0, len(values), step):
        exact = values[start : start + step].astype(np.float64)
        total += exact.sum(others)
        squares += np.square(exact, out=exact).sum(others)
    return (float(values.size // values.shape[1]), *total.tolist(), *squares.tolist())


def chunk_of(values: NDArray[np.generic]) -> int:
    """Examples that are widened to float64 at a time: at most 512, and few enough to take 16 MB."""
    each = 8 * max(1, values.size // max(1, len(values)))
    return max(1, min(_MOST, _CHUNK // each))


def moments(sums: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation (population) by channel from `channel_sums`; a constant channel has deviation 1.

    Raises:
        ValueError: sums of nothing, or of another length.
    """
    channels = (len(sums) - 1) // 2
    if len(sums) != 1 + 2 * channels or not channels or sums[0] < 1:
        raise ValueError("sums of no values")
    mean = np.array(sums[1 : 1 + channels]) / sums[0]
    std = np.sqrt(np.clip(np.array(sums[1 + channels :]) / sums[0] - np.square(mean), 0, None))
    # As float32, which is what inputs are: the facts say exactly what is subtracted and divided by.
    shift, scale = (torch.from_numpy(part).float() for part in (mean, std))
    scale[scale == 0] = 1
    return tuple(shift.tolist()), tuple(scale.tolist())
