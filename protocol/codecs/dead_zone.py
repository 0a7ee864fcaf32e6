"""A quantiser of three levels for rotated blocks: -1, 0 (the dead zone) and 1, times one scale for each block.

For a standard normal z and the threshold t, with p = P(|z| > t) and c = E(|z| : |z| > t), the levels have the entropy
h(p) + p bits, and the nearest multiple of them to z leaves D = 1 - p·c² of its square. Up to 1.25 bits a coordinate
this is within 0.002 of what any number of cells of equal width beyond the dead zone leaves at the same entropy.

The scale is EDEN's (ICML 2022; DRIVE's, NeurIPS 2021, for one bit): S = ‖x‖²/⟨R·x, q⟩, which gives x̂ = S·Rᵀq with
⟨x, x̂⟩ = ‖x‖² exactly and, for a uniformly random rotation R, E x̂ = x. Then

    E‖x̂ - x‖² = ω ‖x‖²,        ω = D/(1 - D),

and x̂ is never shorter than x. x̂/(1 + ω) is the nearest to x on average and a contraction.

A block that is not like normal numbers even when it is rotated (one coordinate, or very few, hold nearly all of it) can
have next to nothing beyond the threshold. Where the levels would be less than half as good as for normal numbers, the
signs alone are taken (threshold 0, a bit a coordinate), if that is better: DRIVE's one-bit code.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import erfc, exp, log2, pi, sqrt

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from protocol.codecs.gaps import Negative, Positions

# A block of a smaller norm is sent as zeros: its square would leave what float32 can hold.
SMALLEST_NORM = 1e-18


@dataclass(frozen=True, slots=True)
class DeadZone:
    """The quantiser of some entropy.

    Attributes:
        threshold: t, in root mean squares of the block.
        noise: ω.
    """

    threshold: float
    noise: float


@dataclass(frozen=True, slots=True)
class Levels:
    """What is left of some blocks.

    Attributes:
        positions: coordinates that are not zero, counted through the blocks.
        negative: which of them are -1.
        scales: of each block: S/√B; 0 where nothing is left.
    """

    positions: Positions
    negative: Negative
    scales: npt.NDArray[np.float32]


@lru_cache(maxsize=128)
def dead_zone(bits: float) -> DeadZone:
    """The quantiser whose levels have this entropy, in bits a coordinate, for normal numbers."""
    low, high = 0.43, 6.0  # the entropy falls from log2(3), at 0.43, on
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _entropy(_beyond(middle)) > bits else (low, middle)
    density = exp(-low * low / 2) / sqrt(2 * pi)
    kept = 4 * density**2 / _beyond(low)  # p·c², and c = 2·density/p
    return DeadZone(low, (1 - kept) / kept)


def entropy_bytes(counts: npt.NDArray[np.int64], widths: npt.NDArray[np.int64]) -> float:
    """What an ideal coder that knew of each block how many levels are not zero would need for the levels, in bytes."""
    share = counts / widths
    zero = np.where(share < 1, -(widths - counts) * np.log2(np.maximum(1 - share, 1e-30)), 0.0)
    other = counts * (1 - np.log2(np.maximum(share, 1e-30)))
    return float((zero + other).sum()) / 8


def quantise(rows: Tensor, norms: Tensor, zone: DeadZone, spare: Tensor) -> Levels:
    """Quantise rotated blocks.

    Args:
        rows: H·D·x of some blocks, so √B times as long as `norms` says.
        norms: ‖x‖ of each.
        zone: the quantiser.
        spare: as large as `rows`; it is written to.
    """
    width = rows.shape[1]
    live = norms >= SMALLEST_NORM
    least = torch.where(live, norms * zone.threshold, torch.inf)
    magnitudes = torch.abs(rows, out=spare)
    kept = np.greater_equal(magnitudes.numpy(), least[:, None].numpy())  # in half of PyTorch's time
    left = _left(kept, rows)
    squares = norms.double().numpy() ** 2
    # ⟨R·x, q⟩²/(‖q‖²·‖x‖²) is 1/(1 + ω) where the rotated numbers are normal.
    fit = left.sums**2 / np.maximum(left.counts, 1)
    poor = live.numpy() & (fit <= 0.5 / (1 + zone.noise) * squares * width)
    if poor.any():
        poor &= magnitudes.sum(1, dtype=torch.float64).numpy() ** 2 / width > fit
        kept[poor] = True
        left = _left(kept, rows)
    scales = np.divide(squares, left.sums, out=np.zeros(len(rows)), where=left.counts > 0)
    return Levels(left.positions, np.signbit(left.values), scales.astype(np.float32))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Left:
    """Coordinates that are left, and how many and of which magnitude together in every block."""

    positions: Positions
    values: npt.NDArray[np.float32]
    counts: npt.NDArray[np.int64]
    sums: npt.NDArray[np.float64]


def _left(kept: npt.NDArray[np.bool_], rows: Tensor) -> _Left:
    positions: Positions = np.flatnonzero(kept)
    values = rows.numpy().reshape(-1)[positions]
    edges = np.searchsorted(positions, rows.shape[1] * np.arange(len(rows) + 1))
    counts = np.diff(edges)
    sums = np.zeros(len(rows))
    some = np.flatnonzero(counts)
    if len(some):
        sums[some] = np.add.reduceat(np.abs(values), edges[some], dtype=np.float64)
    return _Left(positions=positions, values=values, counts=counts, sums=sums)


def _beyond(threshold: float) -> float:
    """The share p of the threshold."""
    return erfc(threshold / sqrt(2))


def _entropy(p: float) -> float:
    """Entropy of the three levels, in bits."""
    return p - p * log2(p) - (1 - p) * log2(1 - p)
