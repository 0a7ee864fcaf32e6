"""Whether a network has the tiers that are asked for: groups of axes, and units enough for tiers to differ."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations, pairwise

from models.algebra.axes import Layout
from models.algebra.plans import Plan, kept_units, submodel
from models.algebra.rates import groups_in, rate_of
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
    axes = [axis for axis in layout.axes.values() if axis.kind.shrinks]

    def kept_in(tier: Tier) -> list[int]:
        return [kept_units(axis.size, rate_of(tier.rate, axis.group)) for axis in axes]

    for wide, narrow in combinations(tiers, 2):
        kept = kept_in(narrow)
        if narrow.rate == wide.rate or kept != kept_in(wide):
            continue
        less = [Fraction(count - 1, axis.size) for count, axis in zip(kept, axes, strict=True) if count > 1]
        least = f"the next narrower part is at {max(less)}" if less else "there is no narrower one"
        same = f"{narrow.name!r} would keep of every axis what {wide.name!r} keeps"
        allowed = f"rates that differ in units: {same}; {least}"
        raise SettingError("tiers", ", ".join(map(str, tiers)), allowed)


def check_groups(layout: Layout, tiers: Sequence[Tier], refused: str = "") -> None:
    """See that a network has the groups of axes that tiers have rates of their own for.

    Such tiers stand in the order in which they were written, so they must be written from the largest to the smallest.

    Args:
        layout: of the network.
        tiers: of the run.
        refused: why no tier may have such rates; "" where they may.

    Raises:
        SettingError: a group that there is not, rates that are refused, or a tier with more parameters than the one
            before it.
    """
    named = [tier for tier in tiers if groups_in(tier.rate)]
    written = ", ".join(map(str, tiers))
    if named and refused:
        raise SettingError("tiers", written, f"one rate a tier {refused} ({named[0].name!r} has several)")
    if strange := sorted(frozenset().union(*(groups_in(tier.rate) for tier in named)) - set(layout.groups)):
        groups = ", ".join(layout.groups) or "none; axes of this network are in no group"
        raise SettingError(
            "tiers", written, f"rates for groups of axes that the network has ({strange[0]!r}): {groups}"
        )
    if not named:
        return
    sizes = [submodel(layout, Plan(tier.rate)).numel for tier in tiers]
    for (wide, narrow), (more, less) in zip(pairwise(tiers), pairwise(sizes), strict=True):
        if less > more:
            allowed = f"tiers from the largest to the smallest ({narrow.name!r} has {less:,} numbers, {wide.name!r}"
            raise SettingError("tiers", written, f"{allowed} before it {more:,})")
