"""What tiers hold of a network is counted in their parts."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from models.adapters.adapter import Adapter
from models.algebra.plans import Plan
from models.cost import cost_of, training_bytes
from models.networks.build import layout, submodel
from models.networks.complete import completed
from models.networks.spec import NetworkSpec
from server_app.inspection import Part, inspected

EDGE = NetworkSpec("tests.models.foreign.nets:Edge", (1, 8, 8), 10)
RESNET = NetworkSpec("resnet", (1, 8, 8), 10, widths=(8, 16), blocks=(2, 2))


def told_of(spec: NetworkSpec, /, most: int | None = None, **plans: Plan) -> dict[str, Any]:
    parts = {name: Part(rate="?", plan=plan, batch_size=16) for name, plan in plans.items()}
    told = inspected(completed(spec), parts, Part(rate="1", plan=Plan(), batch_size=16), most)
    assert json.loads(json.dumps(told)) == told
    return told


def test_units_and_costs_are_those_of_the_part() -> None:
    plan, spec = Plan(Fraction(1, 4)), completed(EDGE)
    told = told_of(EDGE, a=Plan(), b=plan)
    part = submodel(spec, plan)
    assert dict(zip((one["name"] for one in told["axes"]), told["tiers"]["b"]["units"], strict=True)) == part.sizes
    assert [one["size"] for one in told["axes"]] == told["tiers"]["a"]["units"]
    for name, wanted in (("a", Plan()), ("b", plan)):
        one, cost = told["tiers"][name], cost_of(spec, wanted)
        assert (one["parameters"], one["macs"]) == (cost.parameters, cost.macs)
        assert one["bytes"] == 4 * submodel(spec, wanted).numel
        assert one["memory"] == training_bytes(spec, wanted, 16)
    assert told["full"] == {key: told["tiers"]["a"][key] for key in told["full"]}


def test_what_is_not_cut_of_an_ordinary_module_and_why() -> None:
    told = told_of(EDGE, a=Plan())
    assert {one["why"]: one["tensors"] for one in told["whole"]}["output"] == ["last.weight", "last.bias"]
    assert told["proof"]["fingerprint"] == completed(EDGE).fingerprint
    assert "proof" not in told_of(NetworkSpec("mlp", (1, 8, 8), 10), a=Plan())


def test_axes_of_stages_that_a_part_has_not_keep_nothing() -> None:
    spec = replace(RESNET, exits="plain")
    told = told_of(spec, a=Plan(), b=Plan(depth=1))
    count = layout(completed(spec)).depth
    assert told["tiers"]["b"]["stages"] == [1, count]
    assert told["tiers"]["a"]["stages"] == [count, count]
    assert 0 in told["tiers"]["b"]["units"]
    assert min(told["tiers"]["a"]["units"]) > 0


def test_copies_that_belong_to_one_size_count_where_they_stand() -> None:
    plans = {"a": Plan(), "b": Plan(Fraction(1, 2), dropped=(1,))}
    spec = replace(
        RESNET, private=("norm", "step"), step_sizes=True, variants=tuple(p.to_json() for p in plans.values())
    )
    told = told_of(spec, None, **plans)
    blocks = len(layout(completed(RESNET)).blocks)
    assert told["tiers"]["b"]["blocks"] == [blocks - 1, blocks]
    half = [-(-one["size"] // 2) for one in told["axes"]]
    units = told["tiers"]["b"]["units"]
    assert [kept for kept in units if kept] == [n for n, kept in zip(half, units, strict=True) if kept]
    assert units.count(0) == 1  # what is inside of the block that is left out


def test_nets_side_by_side_and_ranks() -> None:
    told = told_of(NetworkSpec("mlp", (1, 8, 8), 10, widths=(8,), bases=4), a=Plan(), b=Plan(bases=(0,)))
    assert (told["tiers"]["a"]["nets"], told["tiers"]["b"]["nets"]) == ([4, 4], [1, 4])
    assert 4 * told["tiers"]["b"]["parameters"] == told["full"]["parameters"]
    ranks = NetworkSpec("vit", (1, 8, 8), 3, widths=(32, 64), blocks=(2,), heads=2, adapter=Adapter(rank=4))
    assert {one["size"] for one in told_of(ranks, a=Plan())["axes"]} == {4}


@pytest.mark.parametrize("most", [1, 2])
def test_lines_are_bounded(most: int) -> None:
    whole, told = told_of(EDGE, a=Plan()), told_of(EDGE, most, a=Plan())
    for key in ("axes", "whole"):
        assert told[key] == whole[key][:most]
        assert told[f"{key}_more"] == len(whole[key]) - most
    assert len(told["tiers"]["a"]["units"]) == most
