"""The stochastic quantiser of QSGD and FedPAQ, with a scale per group of coordinates.

QSGD: Alistarh et al., NeurIPS 2017, §3.1 and Lemma 3.1. FedPAQ: Reisizadeh et al., AISTATS 2020, Example 1.

For x in a group of norm ‖x‖ and s levels, a = |x_i|/‖x‖·s lies between two whole numbers l and l + 1; the level is
l + 1 with probability a - l, else l, and

    Q_i = sign(x_i) · level · ‖x‖/s,        E Q = x,        E‖Q - x‖² = ‖x‖²/s² Σ f(1 - f) ≤ min(p/s², √p/s) ‖x‖²

with f the fractional parts and p the group's size (the last bound is for the L2 norm only). One L2 norm over the whole
vector gives each coordinate a level of the order s/√p, so p = 11 million needs thousands of levels; a norm per block of
512 costs 0.06 bit a coordinate. With norm "max" the levels are used evenly and the variance is at most p/(4s²)·max².
As f(1 - f) ≤ min(1/4, a) for every coordinate, both norms have

    E‖Q - x‖² ≤ ω ‖x‖²,        ω = min(p/(4s²), √p/s).

ω may be above 1 (2.6 for s = 7 and p = 512), and then Q is no contraction: x - Q(x) is longer than x. Q/(1 + ω) always
is one, E‖Q/(1 + ω) - x‖² ≤ ω/(1 + ω) ‖x‖² (so EF21, NeurIPS 2021, takes in unbiased compressors),
at the price of a bias that only a rule that sends the rest later can bear.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from protocol.codecs.bits import Numbers, dtype_for
from protocol.codecs.layout import Layout
from protocol.codecs.levels import width

# A group of a smaller norm is sent as zeros: dividing by it would leave what float32 can hold.
SMALLEST_NORM = 1e-30


def norms(values: Tensor, layout: Layout, kind: str) -> Tensor:
    """One norm per group, as float32, summed in float64.

    Raises:
        ValueError: NaN, infinity, or a norm beyond float32.
    """
    out = torch.empty(layout.groups)
    if layout.width:
        for piece in layout.pieces():
            rows = values[piece.start : piece.stop].view(piece.rows, -1)
            out[piece.groups] = _norm(rows, kind)
    else:
        for group, (start, stop) in enumerate(layout.spans()):
            out[group] = _norm(values[None, start:stop], kind)[0]
    if not bool(out.isfinite().all()):
        raise ValueError("the difference is not finite, or its norm is too large for float32")
    return out


def noise(layout: Layout, levels: int) -> Tensor:
    """ω of each group, float32."""
    sizes = torch.empty(layout.groups)
    if layout.width:
        for piece in layout.pieces():
            sizes[piece.groups] = (piece.stop - piece.start) / piece.rows
    else:
        for group, (start, stop) in enumerate(layout.spans()):
            sizes[group] = stop - start
    return torch.minimum(sizes / (4 * levels**2), sizes.sqrt() / levels)


def quantise(values: Tensor, scales: Tensor, layout: Layout, levels: int, draws: np.random.Generator) -> Numbers:
    """Draw the levels, 0 to 2s for -s to s.

    A draw has 24 bits, so probabilities are right to 2^-24.

    Args:
        values: float32 vector of the encoded coordinates.
        scales: norm of each group.
        layout: which coordinates are a group.
        levels: s.
        draws: one number is drawn per coordinate, in order.
    """
    per_level = torch.where(scales >= SMALLEST_NORM, levels / scales, 0.0)
    out: Numbers = np.empty(len(values), dtype_for(width(levels)))
    into = torch.from_numpy(out)
    longest = max((piece.stop - piece.start for piece in layout.pieces()), default=0)
    uniform = np.empty(longest, np.float32)
    whole, part = torch.empty(longest), torch.empty(longest)
    for piece in layout.pieces():
        size = piece.stop - piece.start
        y, floor = part[:size], whole[:size]
        u = torch.from_numpy(draws.random(out=uniform[:size], dtype=np.float32))
        rows = values[piece.start : piece.stop].view(piece.rows, -1)
        torch.mul(rows, per_level[piece.groups, None], out=y.view(piece.rows, -1))
        torch.floor(y, out=floor)
        # One more with probability y - floor(y): u below it, told by the sign of the difference, which is exact.
        y.sub_(floor).sub_(u).ceil_().add_(floor).clamp_(-levels, levels).add_(levels)
        into[piece.start : piece.stop] = y
    return out


def dequantise(numbers: Numbers, scales: Tensor, layout: Layout, levels: int) -> Tensor:
    """Levels times norm / s, float32; exactly the same at both ends."""
    step = scales / levels
    out, held = torch.empty(len(numbers)), torch.from_numpy(numbers)
    for piece in layout.pieces():
        rows = out[piece.start : piece.stop]
        rows.copy_(held[piece.start : piece.stop]).sub_(levels)
        rows.view(piece.rows, -1).mul_(step[piece.groups, None])
    return out


def _norm(rows: Tensor, kind: str) -> Tensor:
    if kind == "max":
        return rows.abs().amax(1)
    norm: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return norm.float()
