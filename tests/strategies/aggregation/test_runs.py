"""Every aggregation rule in runs of HeteroFL on three tiers."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from flotilla.local.grid import Faults
from models.algebra.axes import Layout
from models.algebra.plans import Plan
from models.algebra.rates import FULL
from models.networks.build import initial_state, layout, submodel
from models.networks.complete import completed
from models.networks.spec import NetworkSpec
from models.randomness import torch_generator
from strategies import FedAvg, Schedule, Settings
from strategies.aggregation import AGGREGATIONS, FedNova, parameter_norm
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.update import AcceptedUpdate, ClientUpdate
from tests.parity.rounds import node as node_of
from tests.support import Outcome, Player, configured, tier_of, trains, without

KEYS: dict[str, dict[str, Any]] = {
    "method": {},
    "examples": {},
    "uniform": {},
    "q-fedavg": {"aggregation_q": 2.0},
    "q-fedsgd": {"aggregation_q": 0.5, "local_steps": 1, "clip_norm": 0.0, "weight_decay": 0.0},
    "fednova": {"tier_steps": "7, 3, 2"},
}
RULES = pytest.mark.parametrize("rule", list(AGGREGATIONS))


def keys_of(rule: str) -> dict[str, Any]:
    return {"method": "heterofl", "partition": "dirichlet", "aggregation": rule, **KEYS[rule]}


@RULES
def test_a_run_of_three_tiers(play: Player, rule: str) -> None:
    out = play.once(**keys_of(rule))
    assert out.summary["status"] == "finished"
    assert out.rejected == []
    assert all(isfinite(tier["loss"]) for tier in out.rows[-1]["tiers"].values())
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in out.state.values())
    plain = play.once(**{**keys_of(rule), "aggregation": "method"})
    assert (out.hash == plain.hash) == (rule in ("method", "uniform"))  # HeteroFL takes the plain mean


@RULES
def test_a_resumed_run_is_the_uninterrupted_one(play: Player, rule: str) -> None:
    keys = {**keys_of(rule), "fraction_train": 0.7, "num_server_rounds": 4, "tier_assignment": "dynamic"}
    half = play(**keys | {"num_server_rounds": 2})
    assert play(**keys, resume=str(half.path)).hash == play(**keys).hash


def test_q_0_is_the_plain_mean_bit_for_bit(play: Player) -> None:
    """I1 end to end: measuring the loss first changes nothing either."""
    q = play(method="heterofl", aggregation="q-fedavg", aggregation_q=0.0)
    assert q.hash == play.once(method="heterofl", aggregation="uniform").hash


def test_equal_steps_make_fednova_the_methods_mean(play: Player) -> None:
    """Over real runs; every client makes as many steps, whatever its examples."""
    keys: dict[str, Any] = {"method": "fedavg", "local_steps": 3, "partition": "dirichlet", "num_server_rounds": 1}
    nova, mean = (play(**keys, aggregation=rule).state for rule in ("fednova", "method"))
    for name, tensor in mean.items():
        torch.testing.assert_close(nova[name], tensor, rtol=1e-6, atol=1e-7)


def altered(node: int, change: Any) -> Faults:
    """A node's training replies are changed on their way."""

    def faults(request: Message, reply: Message) -> list[Message]:
        if trains(request, node):
            change(reply.content)
        return [reply]

    return faults


def drop(key: str) -> Any:
    def change(content: RecordDict) -> None:
        metrics = content["metrics"]
        assert isinstance(metrics, MetricRecord)
        del metrics[key]

    return change


@pytest.mark.parametrize(
    ("rule", "key"), [("q-fedavg", "loss-before"), ("q-fedsgd", "loss-before"), ("fednova", "steps")]
)
def test_a_reply_without_what_the_rule_needs_is_no_reply(play: Player, rule: str, key: str) -> None:
    lacking, lost = (play(faults, **keys_of(rule)) for faults in (altered(2, drop(key)), without(2)))
    assert lacking.hash == lost.hash != play.once(**keys_of(rule)).hash
    assert {(r["node"], r["reason"].split(" =")[0]) for r in lacking.rejected} == {(2, key)}


@pytest.mark.parametrize("rule", ["q-fedavg", "fednova"])
def test_a_reply_that_is_not_finite_is_no_reply(play: Player, rule: str) -> None:
    """Neither in the sums nor in FedNova's τ."""

    def spoil(content: RecordDict) -> None:
        arrays = content["arrays"]
        assert isinstance(arrays, ArrayRecord)
        array = arrays["difference"]
        array.data = b"\xff" * len(array.data)  # NaN

    spoilt, lost = (play(faults, **keys_of(rule)) for faults in (altered(2, spoil), without(2)))
    assert spoilt.hash == lost.hash
    assert [r["node"] for r in spoilt.rejected] == [2, 2]


@RULES
def test_the_order_of_keys_in_a_reply_changes_nothing(play: Player, rule: str) -> None:
    """I5."""

    def reverse(content: RecordDict) -> None:
        for name in list(content)[::-1]:
            record = content.pop(name)
            if isinstance(record, MetricRecord):
                record = MetricRecord(dict(list(record.items())[::-1]))
            elif isinstance(record, ConfigRecord):
                record = ConfigRecord(dict(list(record.items())[::-1]))
            content[name] = record

    def faults(request: Message, reply: Message) -> list[Message]:
        if trains(request):
            reverse(reply.content)
        return [reply]

    assert play(faults, **keys_of(rule)).hash == play.once(**keys_of(rule)).hash


def replies_of(play: Player, **keys: Any) -> tuple[Outcome, dict[int, dict[str, float]]]:
    """A run, and what each node's last training reply said."""
    seen: dict[int, dict[str, float]] = {}

    def look(request: Message, reply: Message) -> list[Message]:
        if trains(request):
            node = (request.metadata.dst_node_id - 1000) // 7
            metrics = reply.content["metrics"]
            assert isinstance(metrics, MetricRecord)
            seen[node] = {key: float(value) for key, value in metrics.items() if isinstance(value, int | float)}
        return [reply]

    return play(look, **keys), seen


def test_steps_by_tier(play: Player) -> None:
    config = configured(method="heterofl", tier_steps="5, 2, 1", tier_assignment="fixed")
    strategy, (_, seen) = config.strategy(), replies_of(play, method="heterofl", tier_steps="5, 2, 1")
    steps = dict(zip("abc", (5, 2, 1), strict=True))
    assert {node: said["steps"] for node, said in seen.items()} == {
        node: steps[tier_of(strategy, node).name] for node in range(6)
    }
    assert all("loss-before" not in said for said in seen.values())


def test_one_gradient_over_all_examples(play: Player) -> None:
    """q-FedSGD whatever the batch size, and the same with every number of rows a batch could have."""
    runs = [replies_of(play, **keys_of("q-fedsgd"), batch_size=size, num_server_rounds=1) for size in (1, 64)]
    assert runs[0][0].hash == runs[1][0].hash
    assert all(said["steps"] == 1 for _, seen in runs for said in seen.values())


def test_weight_decay_is_in_the_difference_and_not_in_the_loss(play: Player) -> None:
    """Of the authors' two data sets one has it in both, the other in neither."""
    keys = {**keys_of("q-fedavg"), "num_server_rounds": 1}
    (plain, said), (decayed, said_too) = (replies_of(play, **keys, weight_decay=decay) for decay in (0.0, 0.1))
    assert {node: one["loss-before"] for node, one in said.items()} == {
        node: one["loss-before"] for node, one in said_too.items()
    }
    assert plain.hash != decayed.hash


@pytest.mark.parametrize("method", ["fedavg", "fjord", "depthfl"])
def test_other_methods(play: Player, method: str) -> None:
    for rule in ("q-fedavg", "fednova"):
        out = play(**{**keys_of(rule), "method": method})
        assert out.rejected == []
        assert isfinite(out.rows[-1]["loss"])


def test_running_statistics_are_no_part_of_the_gradient() -> None:
    spec = completed(NetworkSpec("mlp", (1, 4, 4), 3, widths=(6, 4), norm="batch-per-width", rates=(FULL,)))
    part, declared = submodel(spec, Plan()), layout(spec)
    difference = torch.ones(part.numel)
    statistics = sum(block.numel for name, block in part.items() if declared.tensors[name].buffer)
    assert statistics == 2 * (6 + 4)
    for name, piece in part.split(difference).items():
        if declared.tensors[name].buffer:
            piece.fill_(1e6)
    reply = ClientUpdate(difference=difference, metrics={}, bytes_up=0, norm=float(difference.norm()))
    assert parameter_norm(declared, part, reply) == pytest.approx((part.numel - statistics) ** 0.5)
    bare = Layout(declared.axes, {name: t for name, t in declared.tensors.items() if not t.buffer})
    alone = submodel(completed(NetworkSpec("mlp", (1, 4, 4), 3, widths=(6, 4), norm="none")), Plan())
    assert all(name in bare.tensors for name in alone)
    assert (
        parameter_norm(bare, alone, ClientUpdate(difference=torch.ones(alone.numel), metrics={}, bytes_up=0, norm=42.0))
        == 42.0
    )


@pytest.mark.parametrize("codec", [{"codec": "qsgd", "codec_levels": 1}, {"codec": "qsgd"}, {"codec": "topk"}])
def test_a_lossy_codec_changes_the_noise_of_q_fedavgs_step_and_not_its_length(
    play: Player, codec: dict[str, Any]
) -> None:
    """In the direction of the step of plain differences; ‖Q(Δ)‖² in place of ‖Δ‖² would damp it several times over."""
    keys: dict[str, Any] = {
        "method": "fedavg",
        "aggregation": "q-fedavg",
        "tiers": "a:1",
        "widths": "64",
        "num_server_rounds": 1,
        "codec_share": 0.5,
    }
    config = configured(**keys)
    start = initial_state(config.network, torch_generator(config.settings.seed, 0, "server", "initial state"))
    plain, out = (play(**keys | more) for more in ({}, codec))
    assert not out.rejected
    moved, wanted = (torch.cat([(run.state[n] - t).flatten() for n, t in start.items()]) for run in (out, plain))
    along = float(moved @ wanted / wanted.square().sum())
    assert along == pytest.approx(1.0, abs=0.25)


def test_what_a_client_says_of_its_norm_is_held_against_what_it_sent(play: Player) -> None:
    """Far too long a norm would shorten everybody's step; it counts as twice the decoded one. None is no reply."""

    def says(value: float) -> Any:
        def change(content: RecordDict) -> None:
            metrics = content["metrics"]
            assert isinstance(metrics, MetricRecord)
            metrics["norm"] = value

        return change

    keys: dict[str, Any] = {**keys_of("q-fedavg"), "codec": "qsgd", "codec_small": 10}
    liar, more, lost = (play(f, **keys) for f in (altered(2, says(1e6)), altered(2, says(1e9)), without(2)))
    assert liar.rejected == []
    assert liar.hash == more.hash != play.once(**keys).hash
    for change, line in ((says(-1.0), "norm = -1.0"), (drop("norm"), "norm = None")):
        out = play(altered(2, change), **keys)
        assert out.hash == lost.hash
        assert {(r["node"], r["reason"].split(":")[0]) for r in out.rejected} == {(2, line)}


def test_only_lossy_codecs_ask_for_the_norm() -> None:
    for codec, asked in (
        ("float32", False),
        ("float16", False),
        ("qsgd", True),
        ("topk", True),
        ("ef21", True),
        ("eden", True),
    ):
        for keys, wanted in (({"aggregation": "q-fedavg"}, asked), ({"clustering": "cfl"}, codec in ("qsgd", "eden"))):
            given = configured(codec=codec, **keys).settings
            assert given.work_of(given.tiers[0]).measure.norm == wanted
        given = configured(codec=codec).settings
        assert not given.work_of(given.tiers[0]).measure.norm


def test_the_selections_weights_count_in_the_mean_number_of_steps() -> None:
    """τ is the mean over the same weights as the differences'."""
    schedule = Schedule(momentum=0.0)
    strategy = FedAvg(NetworkSpec("mlp", (1, 4, 4), 3, widths=(6,)), Settings(aggregation=FedNova(), schedule=schedule))
    part, context = submodel(strategy.network, Plan()), strategy.context(1)
    learnt = []
    for i, (examples, weight, steps) in enumerate([(10, 3.0, 2), (40, 0.5, 8)]):
        assignment = TrainAssignment(
            node=node_of(i, examples=examples),
            tier="a",
            plan=Plan(),
            part=part,
            nonce="n",
            optimiser=schedule.optimiser(1),
            weight=weight,
        )
        learnt.append(
            AcceptedUpdate(assignment=assignment, metrics={"num-examples": float(examples), "steps": float(steps)})
        )
    assert strategy.scale(context, learnt) == pytest.approx((10 * 3 * 2 + 40 * 0.5 * 8) / (10 * 3 + 40 * 0.5))
    pulled = [replace(one, assignment=replace(one.assignment, dynamic_alpha=0.1)) for one in learnt]
    # The regulariser of FedDyn shortens the way.
    assert strategy.scale(context, pulled) < strategy.scale(context, learnt)
