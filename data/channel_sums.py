"""Mean and deviation of every channel from sums, which add over chunks, files and devices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

_MOST = 512  # examples that are widened at a time: copies that fit the processor's cache are four times faster
_CHUNK = 2**24  # bytes of them
_NOISE = 2.0**-46  # of a variance, in squares of the mean: what no float32 tells apart, and sums of float64 round to


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSums:
    """Sums over values [N, C, ...].

    Attributes:
        sums: values per channel, then their sum and the sum of their squares by channel.
        least, greatest: of all of them; 0 where there is none.
    """

    sums: tuple[float, ...]
    least: float
    greatest: float


def channel_sums(chunks: Iterable[NDArray[np.generic]]) -> ChannelSums:
    """Sum in float64, by NumPy, in one thread and so always in the same order: every process gets the same bits.

    (Sums of bytes are exact besides: whole numbers below 2**53.)
    """
    count, total, squares = 0.0, np.zeros(0), np.zeros(0)
    least, greatest = [], []
    for values in chunks:
        if not len(values):
            continue
        others = (0, *range(2, values.ndim))
        if not count:
            total, squares = np.zeros(values.shape[1]), np.zeros(values.shape[1])
        exact = values.astype(np.float64)
        least.append(float(exact.min()))
        greatest.append(float(exact.max()))
        total += exact.sum(others)
        squares += np.square(exact, out=exact).sum(others)
        count += values.size // values.shape[1]
    sums = (count, *total.tolist(), *squares.tolist())
    return ChannelSums(sums=sums, least=min(least, default=0.0), greatest=max(greatest, default=0.0))


def chunk_of(values: int) -> int:
    """Examples of so many values each that are widened to float64 at a time: at most 512, and not above 16 MB."""
    return max(1, min(_MOST, _CHUNK // (8 * max(1, values))))


def moments(sums: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation (population) by channel from `channel_sums`; a constant channel has deviation 1.

    Raises:
        ValueError: sums of nothing, or of another length.
    """
    channels = (len(sums) - 1) // 2
    if len(sums) != 1 + 2 * channels or not channels or sums[0] < 1:
        raise ValueError("sums of no values")
    mean = np.array(sums[1 : 1 + channels]) / sums[0]
    variance = np.array(sums[1 + channels :]) / sums[0] - np.square(mean)
    std = np.sqrt(np.where(variance > _NOISE * np.square(mean), variance, 0))
    # As float32, which is what inputs are: the facts say exactly what is subtracted and divided by.
    shift, scale = (torch.from_numpy(part).float() for part in (mean, std))
    scale[scale == 0] = 1
    return tuple(shift.tolist()), tuple(scale.tolist())
