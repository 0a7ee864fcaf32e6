"""Tiers of a network with few units."""

from __future__ import annotations

import pytest

from models.algebra.axes import Axis, Kind, Layout
from models.errors import SettingError
from strategies.tiers.reach import check_reach
from strategies.tiers.tier import parse_tiers

HEADS = Layout({"heads": Axis("heads", 4), "classes": Axis("classes", 100, Kind.CLASS)}, {})


@pytest.mark.parametrize("tiers", ["a:1, b:1/2, c:1/4", "a:1, b:1/2, c:1/2", "a:1/8"])
def test_tiers_that_differ_in_units(tiers: str) -> None:
    check_reach(HEADS, parse_tiers(tiers))


@pytest.mark.parametrize(
    ("tiers", "least"),
    [("a:1, b:1/4, c:1/8", "there is no narrower one"), ("a:1, b:1/2, c:3/8", "the next narrower part is at 1/4")],
)
def test_a_tier_that_would_hold_what_a_wider_one_holds_is_refused(tiers: str, least: str) -> None:
    with pytest.raises(SettingError, match=f"'c' would keep of every axis what 'b' keeps; {least}"):
        check_reach(HEADS, parse_tiers(tiers))
