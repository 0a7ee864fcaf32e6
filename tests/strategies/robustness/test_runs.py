"""The guard in runs: what it changes, what it leaves alone, what it refuses, and that resuming repeats it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, RecordDict

from flotilla.local.grid import Faults
from models.algebra.plans import Plan
from models.errors import SettingError
from models.networks.build import initial_state, submodel
from models.randomness import torch_generator
from protocol import DIFFERENCE
from tests.support import Player, configured, trains, without

VICTIM = 2
FOUR: dict[str, Any] = {"num_clients": 4, "tiers": "a:1, b:1/2"}


def scaled(content: RecordDict, factor: float) -> None:
    flat = content.array_records["arrays"][DIFFERENCE].numpy()
    content["arrays"] = ArrayRecord({DIFFERENCE: Array(np.asarray(flat * np.float32(factor)))})


def attacking(factor: float, node: int = VICTIM) -> Faults:
    """A node whose differences are so many times too long."""

    def faults(request: Message, reply: Message) -> list[Message]:
        if trains(request, node):
            scaled(reply.content, factor)
        return [reply]

    return faults


def test_a_reply_that_is_far_too_long_is_no_reply(play: Player) -> None:
    keys: dict[str, Any] = {"guard_norm": "zero", "num_server_rounds": 3, **FOUR}
    out = play(attacking(1e6), **keys)
    assert out.hash == play(without(VICTIM), **keys).hash
    assert [[r["node"] for r in row["rejected"]] for row in out.rows] == [[VICTIM]] * 3
    assert all("norm" in r["reason"] and "usual in tier" in r["reason"] for r in out.rejected)
    assert set(out.rows[-1]["guard"]["norm_bounds"]) <= {"a", "b"}


def test_bounds_that_nobody_reaches_change_no_bit(play: Player) -> None:
    keys: dict[str, Any] = {"guard_clip_start": 1e6, "guard_examples": "1, 100000"}
    assert play(guard_norm="both", **keys, **FOUR).hash == play.once(**FOUR).hash


def test_clipped_differences_count_as_much_as_the_bound(play: Player) -> None:
    """With everything clipped to almost nothing the model hardly moves, and the metrics say so."""
    out = play(guard_norm="clip", guard_clip_start=1e-6, num_server_rounds=1, **FOUR)
    before = initial_state(configured(**FOUR).network, torch_generator(1, 0, "server", "initial state"))
    assert sum(float((out.state[name] - before[name]).square().sum()) for name in before) ** 0.5 < 2e-6
    assert sum(out.rows[0]["guard"]["clipped"].values()) == 4


def test_no_one_weighs_more_than_the_range_allows(play: Player) -> None:
    def liar(request: Message, reply: Message) -> list[Message]:
        if trains(request, VICTIM):
            reply.content.metric_records["metrics"]["num-examples"] = 1e8
        return [reply]

    keys: dict[str, Any] = {"method": "fedavg", "guard_examples": "1, 20", **FOUR}
    out = play(liar, **keys)
    assert out.hash == play(**keys).hash  # everybody has more than 20
    assert [row["guard"]["weights_clipped"] for row in out.rows] == [4, 4]


@pytest.mark.parametrize("mean", ["trimmed-mean", "median"])
def test_one_wrong_client_hardly_matters(play: Player, mean: str) -> None:
    keys: dict[str, Any] = {"num_clients": 6, "tiers": "a:1", "method": "fedavg", "aggregation": "uniform"}
    keys |= {"guard": False, "guard_rollbacks": 0}  # which would reject it, or go back
    out, plain = play(attacking(-1e4), guard_mean=mean, **keys), play(attacking(-1e4), **keys)
    honest = play(guard_mean=mean, **keys)
    assert out.rows[-1]["accuracy"] > 0.8 * honest.rows[-1]["accuracy"] > plain.rows[-1]["accuracy"] + 0.05
    assert out.rows[-1]["accepted"] == 6


@pytest.mark.parametrize("guard", [{"min_cover": 3}, {"guard_mean": "median"}], ids=str)
def test_what_too_few_hold_keeps_its_bits(play: Player, guard: dict[str, Any]) -> None:
    """Two of six have the full network, which is less than three; the part of tier b is held by all six."""
    keys: dict[str, Any] = {"num_clients": 6, "tiers": "a:1, b:1/2", "tier_proportions": "1, 2"}
    out = play(**keys, heterofl_label_rows=False, **guard)
    config = configured(**keys)
    held = submodel(config.network, Plan(config.settings.tiers[1].rate))
    for name, before in initial_state(config.network, torch_generator(1, 0, "server", "initial state")).items():
        after, covered = out.state[name], torch.zeros_like(before, dtype=torch.bool)
        held[name].gather(covered).fill_(True)  # one leading run: a view
        assert torch.equal(after[~covered].view(torch.int32), before[~covered].view(torch.int32)), name
        assert not torch.equal(after[covered], before[covered]), name
    coverage = out.rows[-1]["coverage"]
    assert coverage["round"] == coverage["ever"] < 1 == play.once(**keys).rows[-1]["coverage"]["round"]


@pytest.mark.parametrize("method", ["heterofl", "depthfl", "fiarse", "fedecover", "nefl"])
@pytest.mark.parametrize("mean", ["trimmed-mean", "median"])
def test_other_means_go_with_methods(play: Player, method: str, mean: str) -> None:
    out = play(method=method, guard_mean=mean, min_cover=2, guard_norm="both", num_clients=6, tiers="a:1, b:1/2")
    assert out.summary["status"] == "finished"
    assert all(tensor.isfinite().all() for tensor in out.state.values())


def test_a_resumed_run_has_the_same_bounds(play: Player) -> None:
    keys: dict[str, Any] = {"guard_norm": "both", "guard_clip_start": 0.5, "num_server_rounds": 4, **FOUR}
    whole = play(**keys)
    shorter = play(resume=str(play(**keys | {"num_server_rounds": 2}).path), **keys)
    assert shorter.hash == whole.hash
    assert [row["guard"] for row in shorter.rows] == [row["guard"] for row in whole.rows]


def test_a_median_of_clusters_is_refused() -> None:
    with pytest.raises(SettingError, match="guard-mean"):
        configured(guard_mean="median", clustering="ifca")


@pytest.mark.parametrize("keys", [{"guard_mean": "median"}, {"min_cover": 3}])
def test_a_round_that_changes_nothing_says_so(
    play: Player, caplog: pytest.LogCaptureFixture, keys: dict[str, Any]
) -> None:
    """One of the three that every coordinate needs is lost in round 2."""
    out = play(without(VICTIM, [2]), method="fedavg", num_clients=3, num_server_rounds=2, quorum=0.5, **keys)
    assert [row["coverage"]["round"] > 0 for row in out.rows] == [True, False]
    said = [line.strip() for line in caplog.messages if "changed nothing" in line]
    assert [line.split(" changed")[0] for line in said] == ["round 2"]


def test_rounds_of_zeros_say_so(play: Player, caplog: pytest.LogCaptureFixture) -> None:
    """As of a codec that decodes zeros, or a rule that weighs every reply with nothing."""

    def faults(request: Message, reply: Message) -> list[Message]:
        if trains(request):
            scaled(reply.content, 0.0)
        return [reply]

    play(faults, method="fedavg", num_clients=3, num_server_rounds=2)
    said = [line for line in caplog.messages if "every difference that came was zero" in line]
    assert len(said) == 2
