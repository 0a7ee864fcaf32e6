"""Pairs of low-rank factors, whose product is added to a weight that nobody trains.

    ΔW = (α/R)·B·A,    A: (R, n), B: (m, R)

R is the *full* rank, whatever a device holds: a device of rank r has the first r rows of A and columns of B and the
same factor in front, so that its network is the full one with the other ranks at zero. With α/r in its place, as peft
scales a pair of lower rank, parts of different ranks are no parts of one network.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Pair:
    """Two tensors of a state that share a rank axis.

    Attributes:
        a: name of A, which has the axis on dimension 0.
        b: name of B, which has it on dimension 1.
        axis: name of the axis; every pair has one of its own.
        weight: name of the weight that the product is added to, where that is part of the state too; else "".
    """

    a: str
    b: str
    axis: str
    weight: str = field(default="", kw_only=True)
