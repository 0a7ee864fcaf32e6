from __future__ import annotations

from collections import Counter
from fractions import Fraction
from math import sqrt
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import SettingError
from strategies import HALVING, Tier, parse_proportions, parse_tiers
from strategies.tiers.tier import Assignment, apportion

shares = (
    st.lists(st.integers(0, 50), min_size=1, max_size=7)
    .filter(any)
    .map(lambda numbers: [Fraction(n, sum(numbers)) for n in numbers])
)


def test_parse_tiers() -> None:
    assert parse_tiers("a:1, b:1/2, c:0.25") == (
        Tier("a", Fraction(1)),
        Tier("b", Fraction(1, 2)),
        Tier("c", Fraction(1, 4)),
    )
    assert parse_tiers("1/2, 1") == (Tier("b", Fraction(1)), Tier("a", Fraction(1, 2)))
    assert parse_tiers(" phone : 1/16 ,server:1") == (Tier("server", Fraction(1)), Tier("phone", Fraction(1, 16)))
    assert parse_tiers(", ".join(f"{tier.name}:{tier.rate}" for tier in HALVING)) == HALVING


def test_rates_are_fractions() -> None:
    """0.2 + 0.2 + 0.2 of 10 units are 6, not 7."""
    (tier,) = parse_tiers("x:0.6")
    assert tier.rate == Fraction(3, 5)


def test_parse_proportions() -> None:
    assert parse_proportions("", HALVING) == (Fraction(1, 5),) * 5
    assert list(parse_proportions("1, 0, 3, 0, 0", HALVING)) == [Fraction(n, 4) for n in (1, 0, 3, 0, 0)]
    assert sum(parse_proportions("0.1, 0.2, 0.3, 0.15, 0.25", HALVING)) == 1


@given(shares, st.integers(0, 2000))
def test_apportion(proportions: list[Fraction], total: int) -> None:
    counts = apportion(proportions, total)
    assert sum(counts) == total
    assert all(abs(count - share * total) < 1 for count, share in zip(counts, proportions, strict=True))
    assert all(count == 0 for count, share in zip(counts, proportions, strict=True) if share == 0)


@given(shares, st.integers(1, 1500), st.integers(0, 5))
def test_fixed_proportions_are_exact(proportions: list[Fraction], nodes: int, seed: int) -> None:
    tiers = [Tier(str(i), Fraction(1, i + 1)) for i in range(len(proportions))]
    assignment = Assignment("fixed", tiers, proportions=proportions, nodes=nodes, seed=seed)
    found = Counter(assignment.tier_of(node, "", 1).name for node in range(nodes))
    assert [found[tier.name] for tier in tiers] == apportion(proportions, nodes)
    assert all(assignment.tier_of(node, "", 9) == assignment.tier_of(node, "", 1) for node in range(0, nodes, 97))


def test_fixed_tiers_depend_on_the_seed_and_not_on_the_id() -> None:
    names = []
    for seed in range(3):
        assignment = Assignment("fixed", HALVING, proportions=[Fraction(1, 5)] * 5, nodes=1500, seed=seed)
        names.append([assignment.tier_of(node, "", 1).name for node in range(1500)])
    assert names[0] != names[1] != names[2]
    assert names[0] != sorted(names[0])


@pytest.mark.parametrize("ids", [range(7, 7 + 3 * 1500, 3), [f"node-{i}" for i in range(1500)]])
def test_dynamic_tiers_are_redrawn_in_proportion(ids: list[int] | list[str]) -> None:
    proportions = [Fraction(1, 2), Fraction(1, 4), Fraction(1, 8), Fraction(1, 8), Fraction(0)]
    assignment = Assignment("dynamic", HALVING, proportions=proportions, nodes=1500, seed=1)
    rounds = [[assignment.tier_of(node, "", number).name for node in ids] for number in (1, 2, 3)]
    assert rounds[0] != rounds[1] != rounds[2]
    found = Counter(name for names in rounds for name in names)
    total = 3 * len(ids)
    for tier, share in zip(HALVING, proportions, strict=True):
        assert abs(found[tier.name] - float(share) * total) <= 4.5 * sqrt(total * float(share) * (1 - float(share)))
    # A node's tiers of two rounds are independent.
    both = sum(a == b == "a" for a, b in zip(rounds[0], rounds[1], strict=True))
    assert abs(both - len(ids) / 4) < 4.5 * sqrt(len(ids) * 3 / 16)


@pytest.mark.parametrize("kind", ["fixed", "dynamic"])
def test_a_new_node_changes_nobody_elses_tier(kind: str) -> None:
    assignment = Assignment(kind, HALVING, proportions=[Fraction(1, 5)] * 5, nodes=100, seed=1)
    before = [assignment.tier_of(node, "", 4) for node in range(100)]
    newcomers = {assignment.tier_of(node, "", 4).name for node in [100, 5000, "kitchen", *range(200, 300)]}
    assert [assignment.tier_of(node, "", 4) for node in range(100)] == before
    assert newcomers == {"a", "b", "c", "d", "e"}


def test_a_dynamic_tier_is_nobody_elses_business() -> None:
    """More nodes in the configuration, the same draws."""
    few, many = (
        Assignment("dynamic", HALVING, proportions=[Fraction(1, 5)] * 5, nodes=nodes, seed=1) for nodes in (10, 1500)
    )
    assert [few.tier_of(node, "", 3) for node in range(10)] == [many.tier_of(node, "", 3) for node in range(10)]


def test_told_by_the_node() -> None:
    assignment = Assignment("node", HALVING, proportions=[Fraction(1, 5)] * 5, nodes=3, seed=1)
    assert assignment.tier_of(0, "c", 1).name == "c"
    for told in ("", "C", "f"):
        with pytest.raises(SettingError, match=f"tier = '{told}'.*a, b, c, d, e"):
            assignment.tier_of(0, told, 1)


def test_an_unknown_way_to_assign() -> None:
    with pytest.raises(SettingError, match="tier-assignment"):
        Assignment("random", HALVING, proportions=[Fraction(1, 5)] * 5, nodes=3, seed=1)


@pytest.mark.parametrize("half", [0.5, "1/2"])
def test_a_rate_in_python_is_exact_however_it_is_written(half: Any) -> None:
    assert Tier("a", half) == Tier("a", Fraction(1, 2))
    with pytest.raises(ValueError, match=r"^rate = 'half': allowed is"):
        Tier("a", cast(Any, "half"))
