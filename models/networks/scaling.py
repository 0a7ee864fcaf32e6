"""Which units and which residual blocks leave a wanted share of the parameters (NeFL; see `strategies.methods.nefl`).

- Blocks are left out one at a time, each if that brings the share of the parameters that the remaining depth has closer
  to the wanted one: √rate for "both", the rate for "depth". The next one is always the last block of the stage that has
  most left (of several the deepest); blocks that change the width stay, and so does one of the others.
- The width makes up for the rest: √(rate / share of the depth) of the units of every axis, rounded up. Where most
  parameters are in a layer with one uncut side, as in `mlp`, more than the rate is left; see the run's table.
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from functools import lru_cache
from math import isqrt, prod

from models.algebra.axes import Layout
from models.algebra.plans import Plan
from models.algebra.rates import FULL
from models.errors import SettingError
from models.networks.build import layout
from models.networks.spec import NetworkSpec

MODES = ("width", "depth", "both")
_PRECISION = 10**6


@lru_cache(maxsize=256)
def scaled_plan(network: NetworkSpec, rate: Fraction, mode: str) -> Plan:
    """The submodel that has about this share of the parameters.

    Args:
        network: completed, without private tensors.
        rate: share of the parameters, in (0, 1].
        mode: one of `MODES`.

    Raises:
        SettingError: unknown mode, or mode "depth" where the blocks that have to stay are more than that.
    """
    if mode not in MODES:
        raise SettingError("mode", mode, MODES)
    if mode == "width":
        return Plan(square_root(rate))
    sizes, order = block_shares(layout(network)), drop_order(layout(network))
    if mode == "depth" and (least := 1 - sum(sizes[block] for block in order)) > rate:
        allowed = f"width or both: {float(least):.0%} of the parameters cannot be left out, a tier has {rate}"
        raise SettingError("mode", mode, allowed)
    share, wanted = FULL, rate if mode == "depth" else square_root(rate)
    dropped = []
    for block in order:
        if abs(share - sizes[block] - wanted) < abs(share - wanted):
            share -= sizes[block]
            dropped.append(block)
    width = FULL if mode == "depth" else square_root(min(FULL, rate / share))
    return Plan(width, dropped=tuple(sorted(dropped)))


def square_root(share: Fraction) -> Fraction:
    """Square root; exact where it is rational, else six digits, rounded down."""
    top, bottom = isqrt(share.numerator), isqrt(share.denominator)
    if (top**2, bottom**2) == (share.numerator, share.denominator):
        return Fraction(top, bottom)
    return Fraction(isqrt(share.numerator * _PRECISION**2 // share.denominator), _PRECISION)


def block_shares(layout: Layout) -> dict[int, Fraction]:
    """Share of the parameters in every block that can be left out (and, as block 0, in everything else)."""
    sizes: Counter[int] = Counter()
    for tensor in layout.tensors.values():
        if not tensor.buffer:
            sizes[tensor.block] += prod(tensor.shape)
    return {block: Fraction(size, sizes.total()) for block, size in sizes.items()}


def drop_order(layout: Layout) -> list[int]:
    """The blocks that may be left out, in the order in which they are looked at; one more would be the last one."""
    stages: dict[int, set[int]] = {}
    for tensor in layout.tensors.values():
        if tensor.block:
            stages.setdefault(tensor.stage, set()).add(tensor.block)
    order: list[int] = []
    for _ in range(len(layout.blocks) - 1):
        longest = max(stages, key=lambda stage: (len(stages[stage]), stage))
        order.append(max(stages[longest]))
        stages[longest].remove(order[-1])
    return order
