"""Tiers that a network has: units enough for them to differ, groups that they name."""

from __future__ import annotations

from fractions import Fraction
from math import inf

import pytest

from models import NetworkSpec, Plan, completed, submodel
from models.algebra.axes import Axis, Kind, Layout
from models.algebra.rates import read_rate
from models.cost import cost_of, training_bytes
from models.errors import SettingError
from strategies import (
    FIARSE,
    DepthFL,
    FederatedDropout,
    FedRolex,
    Fjord,
    FlowerStrategy,
    HeteroFL,
    NeFL,
    ScaleFL,
    Settings,
    Smallest,
    SplitMix,
)
from strategies.tiers.adaptive import Demand, Rule, first
from strategies.tiers.reach import check_reach
from strategies.tiers.tier import Tier, common_tier, items_of, parse_tiers

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


# ---- rates for groups of axes ----------------------------------------------------------------------------------------

TEXT = NetworkSpec("transformer", (6,), 3, widths=(16, 48), blocks=(2,), vocabulary=9, heads=4, whole_heads=True)
MATFORMER = "a:1, b:mlp=1/2, c:mlp=1/4,heads=1/2, d:1/2 mlp=1/4"


def test_tiers_of_several_rates() -> None:
    tiers = parse_tiers("a:1, b:mlp=1/4,heads=1/2@2, c:1/2 mlp=1/4")
    assert [str(tier) for tier in tiers] == ["a:1", "b:heads=1/2 mlp=1/4@2", "c:1/2 mlp=1/4"]
    assert parse_tiers(", ".join(map(str, tiers))) == tiers
    assert len(items_of("a:1, b:mlp=1/4,heads=1/2@2, c:1/2 mlp=1/4")) == 3
    assert parse_tiers("a:mlp=1/2,heads=1/2, b:1/2")[1] == Tier("b", Fraction(1, 2))
    assert common_tier(parse_tiers("a:1, b:mlp=1/4, c:heads=1/2")) == Tier("c", read_rate("mlp=1/4 heads=1/2"))


@pytest.mark.parametrize("text", ["a:1, mlp=1/4", "mlp=1/4", "a:1/2,mlp=1/4", "a:mlp=1/4,mlp=1/2", "a:mlp=2", "a:mlp="])
def test_tiers_that_cannot_be_read(text: str) -> None:
    with pytest.raises(SettingError, match=r"tiers = .*: allowed is"):
        parse_tiers(text)


@pytest.mark.parametrize("method", [HeteroFL, FedRolex, Fjord, FederatedDropout, ScaleFL])
def test_methods_that_take_several_rates(method: type[FlowerStrategy]) -> None:
    strategy = method(TEXT, Settings(tiers=parse_tiers(MATFORMER)))
    context = strategy.context(1)
    parts = [strategy.kept_plan(context, tier) for tier in strategy.settings.tiers]
    assert [str(plan.rate) for plan in parts] == ["1", "mlp=1/2", "heads=1/2 mlp=1/4", "1/2 mlp=1/4"]
    sizes = [submodel(strategy.network, plan).sizes for plan in parts]
    assert [(one["stream"], one["head1"], one["hidden1"]) for one in sizes] == [
        (16, 4, 48),
        (16, 4, 24),
        (16, 2, 12),
        (8, 2, 12),
    ]


def test_who_holds_what_where_parts_do_not_lie_inside_each_other() -> None:
    tiers = parse_tiers("a:1, b:heads=1/4, c:mlp=1/4")
    strategy = HeteroFL(TEXT, Settings(tiers=tiers))
    context = strategy.context(1)
    holds = {(one.name, other.name) for one in tiers for other in tiers if strategy.can_hold(context, one, other)}
    assert holds == {("a", "a"), ("b", "b"), ("c", "c"), ("a", "b"), ("a", "c")}
    smallest = Smallest(TEXT, Settings(tiers=tiers))
    assert smallest.kept_plan(context, tiers[0]).rate == read_rate("mlp=1/4 heads=1/4")
    fjord = Fjord(TEXT, Settings(tiers=tiers)).objective(context, tiers[0])
    assert fjord.settings["rates"] == "heads=1/4,mlp=1/4,1"


@pytest.mark.parametrize(
    ("method", "why"), [(NeFL, "shares"), (FIARSE, "shares"), (SplitMix, "whole nets"), (DepthFL, "depths")]
)
def test_methods_whose_tiers_have_one_rate(method: type[FlowerStrategy], why: str) -> None:
    with pytest.raises(
        SettingError, match=f"one rate a tier for {method.__name__}, whose sizes are .*{why}.*'b' has several"
    ):
        method(TEXT, Settings(tiers=parse_tiers(MATFORMER)))


def test_groups_that_a_network_has_not() -> None:
    with pytest.raises(SettingError, match=r"groups of axes that the network has \('channels'\): heads, mlp, stream"):
        HeteroFL(TEXT, Settings(tiers=parse_tiers("a:1, b:channels=1/2")))


def test_tiers_of_several_rates_stand_by_size() -> None:
    with pytest.raises(SettingError, match=r"from the largest to the smallest \('c' has [\d,]+ numbers, 'b' before it"):
        HeteroFL(TEXT, Settings(tiers=parse_tiers("a:1, b:mlp=1/4, c:mlp=1/2")))


def test_what_fits_is_judged_by_the_real_part() -> None:
    """Parts of one mean rate take unlike memory and time, and that is what decides."""
    spec = completed(TEXT)
    plans = [Plan(tier.rate) for tier in parse_tiers("a:1, b:heads=1/4, c:mlp=1/4")]
    needed = [training_bytes(spec, plan, 32) for plan in plans]
    macs = [cost_of(spec, plan).macs for plan in plans]
    assert len(set(needed)) == len(set(macs)) == 3

    def tier_with(memory: float) -> int | None:
        demand = Demand(
            steps=[1.0] * 3, step=[1e-9 * one for one in macs], needed=needed, coordinates=[1.0] * 3, memory=memory
        )
        found = first(demand, Rule())
        return None if found is None else found.position

    assert tier_with(inf) == 0
    assert tier_with(needed[1]) == min(i for i in (1, 2) if needed[i] <= needed[1])
    assert tier_with(min(needed)) == needed.index(min(needed))
    assert tier_with(min(needed) - 1) is None
