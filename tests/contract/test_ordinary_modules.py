"""An ordinary module by import path: no line of it knows of this project, and methods run on it as on our own."""

from __future__ import annotations

from math import isfinite
from typing import Any

import pytest

from models import NetworkSpec, completed
from models.errors import SettingError
from models.networks.build import layout
from models.registry import following
from strategies import METHODS
from tests.support import Player, configured

EDGE: dict[str, Any] = {"model": "tests.models.foreign.nets:Edge", "widths": ""}
IN_DEPTH = {name for name in METHODS if "last" not in METHODS[name].PREFERENCES.exits}
RUN: dict[str, Any] = {**EDGE, "num_clients": 3, "num_server_rounds": 1, "batch_size": 64, "tiers": "a:1, b:1/2, c:1/4"}
QUICK = {"heterofl", "fedrolex", "dropout", "fiarse", "fjord"}


def _methods() -> list[Any]:
    marks = {name: [] if name in QUICK else [pytest.mark.slow] for name in METHODS}
    return [pytest.param(name, marks=marks[name]) for name in METHODS if name not in {*IN_DEPTH, "splitmix"}]


@pytest.mark.parametrize("method", _methods())
def test_every_method_of_width_trains_it(play: Player, method: str) -> None:
    out = play(**RUN, method=method)
    assert out.rejected == []
    assert all(tensor.isfinite().all() for tensor in out.state.values())
    tiers = out.rows[0]["tiers"]
    assert all(isfinite(tier["loss"]) for tier in tiers.values())
    last = out.summary["last"]["tiers"]
    if method in QUICK - {"fiarse"}:
        assert last["a"]["parameters"] > last["b"]["parameters"] > last["c"]["parameters"]
        assert last["a"]["macs"] > last["b"]["macs"] > last["c"]["macs"]


@pytest.mark.parametrize(("method", "key"), [*((name, "model") for name in sorted(IN_DEPTH)), ("splitmix", "model")])
def test_what_it_has_not_is_refused_at_the_door(method: str, key: str) -> None:
    with pytest.raises(SettingError, match=f"{key} = 'tests.models.foreign.nets:Edge': allowed is a network"):
        configured(**RUN, method=method)


def test_a_network_of_which_nothing_can_be_cut_is_refused_where_tiers_are_narrow() -> None:
    keys = {**RUN, "model": "tests.models.foreign.nets:Whole"}
    with pytest.raises(SettingError, match="a network that can be cut in width, for HeteroFL"):
        configured(**keys, method="heterofl")
    configured(**keys | {"tiers": "a:1"}, method="heterofl")


def test_a_device_that_finds_other_layers_says_so() -> None:
    spec = completed(NetworkSpec(EDGE["model"], (1, 8, 8), 10))
    assert len(spec.fingerprint) == 16
    other = NetworkSpec.from_json(spec.to_json().replace(spec.fingerprint, "0" * 16))
    with pytest.raises(SettingError, match="the same layers here and at the server"):
        layout(other)


def test_a_device_follows_only_what_its_owner_allows() -> None:
    with following(["my_lab.*"]), pytest.raises(SettingError, match="what this device's owner allows"):
        completed(NetworkSpec(EDGE["model"], (1, 8, 9), 10))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tests.models.foreign.nets:Wide", r"one that gives logits \(N, 10\); this gives \(N, 3\)"),
        ("tests.models.foreign.nets:broken", r"one that can be made; RuntimeError: no such file"),
        ("tests.models.foreign.nets:nothing", r"one that gives a torch.nn.Module, not a int"),
        ("tests.models.foreign.nets:Branching", r"it branches on data at nets\.py:\d+ \(return y if y"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_one_line(name: str, reason: str) -> None:
    with pytest.raises(SettingError, match=reason) as refused:
        completed(NetworkSpec(name, (1, 8, 8), 10))
    assert "\n" not in str(refused.value)
