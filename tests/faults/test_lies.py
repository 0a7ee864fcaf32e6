"""Numbers that a node says of itself: with the guard as it is by default, a lie hardly matters, whatever the number.

The liar takes part in an ordinary way, and says wrong things of its examples, steps, losses, moments, cluster and of
how far it came.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

from benchmarks.experiments.lies import Change, moments, says, times
from data import Summary
from flotilla.local.grid import Faults, LocalGrid, contexts
from protocol import EVALUATE, HELLO, LOSSES, STATISTICS, TRAIN, DataReply, TrainRequest, read_request
from server_app.config.resolve import defaults
from server_app.task_facts import NoFacts, decide
from strategies.selection.utility import Utility
from tests.support import TINY, Outcome, Player, address_of, configured, keys_of, without

VICTIM = 2
TEN: dict[str, Any] = {"num_clients": 10, "method": "fedavg", "tiers": "a:1", "num_server_rounds": 2, "batch_size": 32}
LAST: dict[str, Any] = {"evaluate_every": 2, **TEN}


def lying(*changes: Change, kind: str = TRAIN) -> Faults:
    def faults(request: Message, reply: Message) -> list[Message]:
        if request.metadata.message_type == kind and request.metadata.dst_node_id == address_of(VICTIM):
            for change in changes:
                change(reply.content)
        return [reply]

    return faults


def accuracy(out: Outcome) -> float:
    return float(out.rows[-1]["accuracy"])


@pytest.mark.parametrize("factor", [1e6, -10.0])
def test_a_difference_far_too_long_is_no_reply_from_the_first_round_on(play: Player, factor: float) -> None:
    out = play(lying(times(factor)), **TEN)
    assert out.hash == play(without(VICTIM), **TEN).hash
    assert [one["node"] for one in out.rejected] == [VICTIM] * 2


@pytest.mark.parametrize("rule", ["examples", "method"])
def test_a_reply_weighs_no_more_than_its_hello_said(play: Player, rule: str) -> None:
    keys = {**LAST, "aggregation": rule}
    out, turned = (play(lying(times(-1), *also), **keys) for also in ((says(num_examples=1e9),), ()))
    assert out.hash == turned.hash


def test_a_hello_says_no_more_than_others_have(play: Player) -> None:
    """Nine tenths of the nodes have some hundred examples, and one says a billion and turns its difference."""

    def faults(request: Message, reply: Message) -> list[Message]:
        (reply,) = lying(hello(examples=2**62), kind=HELLO)(request, reply)
        return lying(times(-1), says(num_examples=1e9))(request, reply)

    keys = {**LAST, "aggregation": "examples"}
    assert accuracy(play(faults, **keys)) > accuracy(play.once(**keys)) - 0.25
    assert accuracy(play(faults, guard=False, guard_examples="1, 1000000000", **keys)) < 0.2


def hello(**fields: Any) -> Change:
    def change(content: RecordDict) -> None:
        for name, value in fields.items():
            content.config_records["config"][name] = value

    return change


@pytest.mark.parametrize("mean", ["mean", "trimmed-mean"])
def test_fednova_takes_no_more_steps_than_planned(play: Player, mean: str) -> None:
    keys = {**LAST, "aggregation": "fednova", "guard_mean": mean}
    assert play(lying(says(steps=1e9)), **keys).hash == play.once(**keys).hash


def test_fednova_takes_no_long_difference_of_few_steps(play: Player) -> None:
    keys = {**LAST, "aggregation": "fednova", "local_epochs": 4}
    out = play(lying(times(-1), says(steps=1)), **keys)
    assert {one["node"] for one in out.rejected} == {VICTIM}
    assert out.hash == play(without(VICTIM), **keys).hash


def test_a_loss_weighs_no_more_than_a_few_others(play: Player) -> None:
    keys = {**LAST, "aggregation": "q-fedavg"}
    out = play(lying(times(-1), says(loss_before=1e20)), **keys)
    assert all(row["guard"]["losses_clipped"] == 1 for row in out.rows)
    assert accuracy(out) > accuracy(play.once(**keys)) - 0.25


def test_another_cluster_is_told_apart_by_its_own_lengths(play: Player) -> None:
    keys = {**LAST, "clustering": "ifca", "ifca_clusters": 2}

    def swapped(content: RecordDict) -> None:
        numbers = content.metric_records["metrics"]
        numbers["cluster"] = 1.0 - float(numbers["cluster"])  # type: ignore[arg-type]

    out = play(lying(swapped, times(1e4)), **keys)
    assert out.hash == play(without(VICTIM), **keys).hash


def test_losses_are_held_against_each_other(play: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe's answer of 1e308 counts as a multiple of the others'; so does a loss of the last training."""
    seen: list[float] = []
    told = Utility._losses

    def noted(self: Utility, *rest: Any) -> Any:
        found = told(self, *rest)
        seen.extend(found[np.isfinite(found)])  # of who has never trained it is infinite
        return found

    monkeypatch.setattr(Utility, "_losses", noted)
    for selection, kind in (("pow-d", LOSSES), ("rpow-d", TRAIN)):
        seen.clear()
        out = play(lying(says(loss=1e308), kind=kind), selection=selection, fraction_train=0.3, **LAST)
        assert out.summary["status"] == "finished"
        assert seen
        assert max(seen) < 1e3


def test_a_size_that_nobody_has_does_not_train_alone(play: Player) -> None:
    keys = {**LAST, "selection": "by-size-replacement", "fraction_train": 0.5}
    out = play(lying(hello(examples=2**62), kind=HELLO), **keys)
    assert all(set(row["selected"]) - {VICTIM} for row in out.rows)
    assert max(len(row["selected"]) for row in out.rows) > 2


def test_moments_far_from_the_others_are_left_out(play: Player) -> None:
    """The model is whole, so what the run says of it must be, too."""
    keys = {**LAST, "norm": "static-batch", "method": "heterofl", "tiers": "a:1, b:1/2"}

    out, honest = play(lying(moments, kind=STATISTICS), **keys), play.once(**keys)
    assert out.hash == honest.hash
    assert accuracy(out) > accuracy(honest) - 0.05
    assert [one["node"] for one in out.rejected] == [VICTIM]


def test_no_score_speaks_for_all(play: Player) -> None:
    """Of ten that score the model one says that it has a billion examples, and that it is bad."""
    keys: dict[str, Any] = {**TEN, "num_server_rounds": 1, "fraction_evaluate": 1.0}
    out = play(lying(says(num_examples=1e9, accuracy=0.0, loss=1e90), kind=EVALUATE), **keys)
    mean, honest = out.rows[-1]["local"], play.once(**keys).rows[-1]["local"]
    assert mean["accuracy"] > 0.7 * honest["accuracy"]
    assert mean["loss"] < 4 * honest["loss"]
    assert play(lying(says(num_examples=1e300), kind=EVALUATE), **keys).rows[-1]["fairness"]["clients"] == 9


def test_no_reply_says_what_all_of_them_lost(play: Player) -> None:
    keys: dict[str, Any] = {**TEN, "num_server_rounds": 1}
    lie = says(loss=1e308, accuracy=1e6, seconds=-1e300, steps=-1.0)
    out, honest = play(lying(lie), **keys), play.once(**keys)
    assert out.hash == honest.hash
    row, usual = out.rows[-1], honest.rows[-1]
    assert usual["train_loss"] < row["train_loss"] < 3 * usual["train_loss"]
    assert 0 < row["train_accuracy"] < usual["train_accuracy"] + 0.2
    assert row["client_seconds"]["local"] > 0


TASK: dict[str, Any] = {"dataset": "image-folder", "partition": "own", "task_facts": "ask", "image_size": 4}


@pytest.mark.parametrize("guard", [True, False])
@pytest.mark.parametrize("lie", ["[1, 9, 9]", "[1, 4, 4]"], ids=["shape", "values"])
def test_one_device_does_not_say_what_the_task_is(lie: str, guard: bool) -> None:
    config = configured(num_clients=5, data_root="", image_channels=1, guard=guard, **TASK)

    def client(message: Message, context: Context) -> Message:
        node = int(context.node_config["partition-id"])
        values = (320.0, 320.0 * (100 + node), 320.0 * 12_000)
        if node == VICTIM and lie == "[1, 4, 4]":
            values = (320.0, 320e20, 320e40)
        shape = lie if node == VICTIM else "[1, 4, 4]"
        counts = {"class": {"ant": 10, "bee": 10}, "shape": {shape: 20}}
        said = Summary(counts=counts, sums={"values": values}, least={"values": 0.0}, greatest={"values": 255.0})
        return Message(DataReply(node=node, summary=said.to_json()).to_record(), reply_to=message)

    grid = LocalGrid(client, contexts(keys_of(num_clients=5), 5))  # type: ignore[arg-type]
    if guard:
        facts = decide(config.data, config.settings, grid)
        assert facts.input_shape == (1, 4, 4)
        assert facts.mean == (102.0,)
    elif lie == "[1, 4, 4]":
        assert decide(config.data, config.settings, grid).mean[0] > 1e18
    else:
        with pytest.raises(NoFacts):
            decide(config.data, config.settings, grid)


def test_the_only_large_device_is_heard(play: Player) -> None:
    """Its difference is some forty times as long as those of the masked parts, and nobody else has such a part."""
    keys: dict[str, Any] = {"method": "fiarse", "tiers": "a:1, e:1/16", "tier_proportions": "1, 9", "num_clients": 10}
    out = play(num_server_rounds=1, batch_size=32, **keys)
    assert not out.rejected
    assert out.rows[-1]["accepted"] == 10


def test_honest_runs_are_the_same_with_the_guard_and_without(play: Player) -> None:
    """The default job, shortened: no bit of it differs."""
    usual = {key.replace("-", "_"): value for key, value in defaults().items() if key in TINY}
    keys: dict[str, Any] = {**usual, "num_server_rounds": 2, "local_epochs": 1, "num_clients": 10, "device": "cpu"}
    out, bare = play(**keys), play(guard=False, **keys)
    assert out.hash == bare.hash
    assert "guard" in out.rows[-1]
    assert "guard" not in bare.rows[-1]
    assert out.rejected == []


@pytest.mark.parametrize(("said", "counts"), [(-1.0, False), (1e300, False), (900.0, True)])
def test_a_score_of_an_odd_loss_ends_no_run(play: Player, said: float, counts: bool) -> None:
    """Fairness squares what devices say; a large loss may be an honest one that has diverged."""
    keys = {**TEN, "fraction_evaluate": 1.0, "metric": "perplexity"}
    out = play(lying(says(loss=said), kind=EVALUATE), **keys)
    assert out.summary["status"] == "finished"
    assert out.rows[-1]["fairness"]["clients"] == (10 if counts else 9)


def test_examples_of_one_set_nobody_elses_alpha(play: Player) -> None:
    """FedDyn's α by examples goes by the mean of what is believed."""
    asked: list[float] = []

    def faults(request: Message, reply: Message) -> list[Message]:
        if request.metadata.message_type == TRAIN:
            asked.append(read_request(TrainRequest, request.content)[0].dynamic_regulariser.alpha)  # type: ignore[union-attr]
        return lying(hello(examples=2**62), kind=HELLO)(request, reply)

    play(faults, **TEN, dynamic_alpha="0.1", dynamic_by_examples=True)
    assert 0.05 < min(asked) <= max(asked) < 0.15
