"""Whether tiers differ in units where a network has few of them: heads, groups, narrow layers."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from models.algebra.axes import Layout
from models.algebra.plans import kept_units
from models.errors import SettingError
from strategies.tiers.tier import Tier


def check_reach(layout: Layout, tiers: Sequence[Tier]) -> None:
    """See that a narrower tier keeps fewer units of some axis than a wider one.

    Args:
        layout: of the network.
        tiers: widest first.

    Raises:
        SettingError: one does not; says what the next narrower part is, or that there is none.
    """
    sizes = [axis.size for axis in layout.axes.values() if axis.kind.cut]
    for wide, narrow in pairwise(tiers):
        kept = [kept_units(size, narrow.rate) for size in sizes]
        if narrow.rate == wide.rate or kept != [kept_units(size, wide.rate) for size in sizes]:
            continue
        less = [Fraction(count - 1, size) for count, size in zip(kept, sizes, strict=True) if count > 1]
        least = f"the next narrower part is at {max(less)}" if less else "there is no narrower one"
        same = f"{narrow.name!r} would keep of every axis what {wide.name!r} keeps"
        allowed = f"rates that differ in units: {same}; {least}"
        raise SettingError("tiers", ", ".join(map(str, tiers)), allowed)
