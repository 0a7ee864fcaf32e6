"""Block-wise training: what is frozen stays as it is, is not sent back, and need not be kept for a backward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models.algebra.plans import Plan
from models.errors import SettingError
from models.networks.build import build_part, layout, submodel
from tests.support import Player, configured

KEYS: dict[str, Any] = {"method": "blockwise", "num_clients": 4, "norm": "none", "tiers": "a:1"}


def test_a_stage_is_trained_on_those_before_it_which_are_frozen() -> None:
    spec = configured(**KEYS).network
    plan = Plan(depth=2, own_exit=True, frozen=1)
    network, declared = build_part(spec, plan), layout(spec).tensors
    assert {declared[name].stage or declared[name].exit for name in submodel(spec, plan)} == {2}
    assert set(network.state_dict()) == set(submodel(spec, plan)) < set(submodel(spec, plan.holding))
    assert {name for name, one in network.named_parameters() if one.requires_grad} == set(network.state_dict())
    assert Plan.from_json(plan.to_json()) == plan
    for depth, frozen in ((2, 2), (None, -1)):
        with pytest.raises(ValueError, match="frozen"):
            Plan(depth=depth, frozen=frozen)


def test_what_was_trained_before_stays_to_the_last_bit(play: Player) -> None:
    first = play(num_server_rounds=3, blockwise_rounds=2, **KEYS)
    spec = configured(**KEYS).network
    before = play(num_server_rounds=3, blockwise_rounds=2, **KEYS | {"learning_rate": 1e-30, "weight_decay": 0.0}).state
    stage = {name: tensor.stage or tensor.exit for name, tensor in layout(spec).tensors.items()}
    assert all(not torch.equal(first.state[name], before[name]) for name in first.state)
    longer = play(num_server_rounds=5, blockwise_rounds=2, **KEYS).state
    assert {stage[name] for name in longer if torch.equal(longer[name], first.state[name])} == {1}
    up = [row["bytes_up"] for row in first.rows]
    assert up[0] == up[1] != up[2]


def test_who_slices_is_nobodys_business(play: Player) -> None:
    keys = KEYS | {"num_server_rounds": 2}
    assert play(slice_at="server", **keys).hash == play(**keys).hash


def test_refusals() -> None:
    for keys, key in (
        ({"codec_down": "float16"}, "codec-down"),
        ({"adapter": "head"}, "adapter"),
    ):
        with pytest.raises(SettingError) as caught:
            configured(**KEYS | keys)
        assert caught.value.key == key
