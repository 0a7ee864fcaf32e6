"""Every selector in whole runs: finite, resumable bit for bit, and what probes and weights do on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, MetricRecord

from client_app.device import data_of
from client_app.handlers import answer_gradients, answer_losses
from flotilla.local.grid import contexts
from models.algebra.plans import Plan
from models.algebra.submodel import flatten
from models.errors import SettingError
from models.evaluation import evaluate
from models.networks.build import build_part, initial_state, submodel
from models.randomness import torch_generator
from models.statistics import collect, needs_statistics, set_statistics
from protocol import GRADIENTS, LOSSES, TRAIN, LossRequest, Scalar, decode, encode
from strategies import FedAvg, Settings
from strategies.selection import SELECTORS, Candidates, Probe, Selection, Selector, selector
from strategies.tiers.tier import Tier
from tests.support import Outcome, address_of, configured, failed, play, run_of, tier_of

VARIANTS: dict[str, dict[str, Scalar]] = {
    **{name: {"selection": name} for name in SELECTORS},
    "pow-d, common part": {"selection": "pow-d", "selection_compare": "common"},
    "pow-d, raw": {"selection": "pow-d", "selection_compare": "raw"},
    "utility, mini-batch": {"selection": "utility", "selection_loss": "batch", "selection_batch": 7},
    "utility, last": {"selection": "utility", "selection_loss": "last", "selection_candidates": 6},
    "divfl, everyone": {"selection": "divfl", "divfl_refresh": "everyone", "divfl_weights": "plain"},
    "divfl, participants": {"selection": "divfl", "divfl_refresh": "participants", "divfl_weights": "size"},
    "divfl, last layer": {"selection": "divfl", "divfl_vectors": "last-layer", "divfl_greedy": "stochastic"},
    "divfl, all": {"selection": "divfl", "divfl_vectors": "all", "divfl_greedy": "greedy"},
    "oort, quick pacer": {
        "selection": "oort",
        "oort_pacer_rounds": 1,
        "oort_pacer_step": 40.0,
        "oort_exploration": 0.3,
        "selection_lateness_exponent": 9.0,
    },
}


def on_time(request: Message, reply: Message) -> list[Message]:
    """Every device takes the same seconds in every run: wall time is the one thing that no run can repeat."""
    if request.metadata.message_type == TRAIN and not reply.has_error():
        metrics = reply.content["metrics"]
        assert isinstance(metrics, MetricRecord)
        metrics["seconds"] = 0.1 * (request.metadata.dst_node_id % 13 + 1)
    return [reply]


def told(out: Outcome) -> list[dict[str, Any]]:
    keys = ("selected", "selected_tiers", "selected_ever", "train_loss", "bytes_down")
    return [{key: row[key] for key in keys} for row in out.rows]


CASES = [(variant, "heterofl") for variant in VARIANTS] + [(name, "fedrolex") for name in ("pow-d", "divfl", "oort")]


@pytest.mark.parametrize(("variant", "method"), CASES)
def test_every_selector_is_finite_and_resumes_bit_for_bit(tmp_path: Path, variant: str, method: str) -> None:
    keys: dict[str, Any] = {
        "method": method,
        "fraction_train": 0.4,
        "num_server_rounds": 3,
        "slice_at": "server",
        "batch_size": 60,
        "norm": "group",
        "num_clients": 7,
        **VARIANTS[variant],
    }
    whole = play(tmp_path, on_time, **keys)
    assert whole.rejected == []
    assert all(tensor.isfinite().all() for tensor in whole.state.values())
    assert isfinite(whole.rows[-1]["loss"])
    chosen: set[int] = set()
    for row in whole.rows:
        assert 1 <= len(row["selected"]) <= 3
        assert sum(row["selected_tiers"].values()) == len(row["selected"]) == len(set(row["selected"]))
        chosen |= set(row["selected"])
        assert row["selected_ever"] == len(chosen)
    uninterrupted = whole.hash, told(whole)
    (tmp_path / "checkpoints/round-000003.json").unlink()  # as if it had been stopped before
    resumed = play(tmp_path, on_time, resume=str(tmp_path), **keys)
    assert any("resuming after round 2" in line for line in resumed.lines)
    assert (resumed.hash, told(resumed)) == uninterrupted


# ---- what is asked ---------------------------------------------------------------------------------------------------


class Eyes:
    """Counts messages by type and round, and lets a test answer some of them otherwise."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, str, int]] = []

    def __call__(self, request: Message, reply: Message) -> list[Message]:
        meta = request.metadata
        self.seen.append((int(meta.group_id or 0), meta.message_type, meta.dst_node_id))
        return on_time(request, reply)

    def count(self, kind: str, round_number: int) -> int:
        return sum(seen[:2] == (round_number, kind) for seen in self.seen)


@pytest.mark.parametrize("name", ["pow-d", "cpow-d"])
def test_p8_power_of_choice_costs_d_parts_down_and_d_numbers_up(tmp_path: Path, name: str) -> None:
    eyes = Eyes()
    out = play(tmp_path, eyes, selection=name, selection_candidates=5, fraction_train=0.3, norm="none", method="fedavg")
    for row in out.rows:
        assert eyes.count(LOSSES, row["round"]) == 5
        assert eyes.count(TRAIN, row["round"]) == len(row["selected"]) == 2
        assert row["bytes_survey_down"] * 2 == row["bytes_down"] * 5
        assert row["bytes_survey_up"] == 0


@pytest.mark.parametrize("name", ["rpow-d", "oort", "divfl", "by-size"])
def test_what_came_with_training_is_not_asked_for(tmp_path: Path, name: str) -> None:
    eyes = Eyes()
    play(tmp_path, eyes, selection=name, fraction_train=0.5, norm="none")
    assert not [seen for seen in eyes.seen if seen[1] in (LOSSES, GRADIENTS)]


def test_divfl_asks_everybody_once_or_every_round(tmp_path: Path) -> None:
    asked = {}
    for refresh in ("participants", "everyone"):
        eyes = Eyes()
        keys = {"selection": "divfl", "divfl_refresh": refresh, "fraction_train": 0.5, "num_server_rounds": 3}
        play(tmp_path / refresh, eyes, norm="none", **keys)
        asked[refresh] = [eyes.count(GRADIENTS, number) for number in (1, 2, 3)]
    assert asked == {"participants": [6, 3, 3], "everyone": [6, 6, 6]}


def test_p7_a_batch_of_everything_is_power_of_choice(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"fraction_train": 0.4, "selection_batch": 10_000, "num_server_rounds": 3}
    full, batch = (play(tmp_path / name, selection=name, **keys) for name in ("pow-d", "cpow-d"))
    assert full.hash == batch.hash
    small = play(tmp_path / "small", selection="cpow-d", **keys | {"selection_batch": 3})
    assert small.hash != full.hash


def test_a_candidate_that_cannot_answer_is_named_and_not_chosen(tmp_path: Path) -> None:
    def faults(request: Message, reply: Message) -> list[Message]:
        asked = request.metadata.message_type == LOSSES and request.metadata.dst_node_id == address_of(2)
        return [failed(request)] if asked else [reply]

    out = play(tmp_path, faults, selection="pow-d", selection_candidates=6, fraction_train=0.5)
    assert [(rejection["node"], rejection["reason"][:6]) for rejection in out.rejected] == [(2, "probe:")] * 2
    assert all(2 not in row["selected"] for row in out.rows)
    assert [row["accepted"] for row in out.rows] == [3, 3]


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (LOSSES, lambda content: content["metrics"].pop("loss")),
        (LOSSES, lambda content: content["metrics"].update(loss=-1.0)),
        (LOSSES, lambda content: content["metrics"].update(loss=float("nan"))),
        (LOSSES, lambda content: content["config"].update(nonce="of another")),
        (GRADIENTS, lambda content: content.pop("arrays")),
        (GRADIENTS, lambda content: content["arrays"].update(gradient=encode(torch.zeros(3)))),
        (GRADIENTS, lambda content: content["arrays"].update(gradient=encode(torch.full((1314,), torch.nan)))),
    ],
)
def test_an_answer_that_cannot_be(tmp_path: Path, kind: str, change: Any) -> None:
    def faults(request: Message, reply: Message) -> list[Message]:
        if request.metadata.message_type == kind and request.metadata.dst_node_id == address_of(1):
            change(reply.content)
        return [reply]

    keys: dict[str, Any] = (
        {"selection": "pow-d"} if kind == LOSSES else {"selection": "divfl", "divfl_refresh": "everyone"}
    )
    out = play(tmp_path, faults, **keys, selection_candidates=6, fraction_train=0.5, norm="none", method="fedavg")
    assert [rejection["node"] for rejection in out.rejected] == [1, 1]
    assert all(rejection["reason"].startswith("probe: ") for rejection in out.rejected)
    assert out.summary["status"] == "finished"


# ---- what the client answers -----------------------------------------------------------------------------------------


def asked(plan: Plan, norm: str, batch: int = 0, objective: str = "cross-entropy") -> tuple[LossRequest, Any, Context]:
    """A request to node 3 about a part of an initial state."""
    config = configured(norm=norm, partition="labels", labels_per_client=5)
    state = initial_state(config.network, torch_generator(1, 0, "server", "initial state"))
    for name, tensor in state.items():  # else every output is nearly the same
        tensor.mul_(3) if tensor.ndim > 1 else tensor.add_(0.01 * len(name))
    request = LossRequest(
        round_number=4,
        nonce="nonce",
        seed=1,
        network=config.network,
        plan=plan,
        sliced=False,
        work=config.settings.work,
        objective=objective,
        batch=batch,
    )
    context = contexts(config.flat, config.num_clients)[address_of(3)]
    return request, state, context


@pytest.mark.parametrize("norm", ["static-batch", "batch-per-width", "group", "none"])
@pytest.mark.parametrize("rate", ["1", "1/4"])
def test_the_loss_is_that_of_all_training_examples_in_evaluation_mode(norm: str, rate: str) -> None:
    request, state, context = asked(Plan(Fraction(rate)), norm)
    reply = answer_losses(request, encode(flatten(state)), context)
    network = build_part(request.network, request.plan)
    network.load_state_dict(submodel(request.network, request.plan).gather(state))
    train = data_of(context).train
    if needs_statistics(network):
        set_statistics(network, collect(network, [train.inputs]))
    assert reply.metrics["loss"] == pytest.approx(evaluate(network, train.inputs, train.labels).loss, rel=1e-5)
    assert reply.metrics["num-examples"] == len(train)
    assert reply.array is None


def test_the_loss_is_that_of_the_task_that_would_be_trained() -> None:
    """Masked cross entropy where that is trained: logits of labels that node 3 does not have are 0."""
    request, state, context = asked(Plan(), "none", objective="masked-cross-entropy")
    found = answer_losses(request, encode(flatten(state)), context).metrics["loss"]
    network = build_part(request.network, request.plan)
    network.load_state_dict(state)
    data = data_of(context)
    absent = [label for label in range(10) if label not in data.labels]
    with torch.no_grad():
        logits = network(data.train.inputs)
    logits[:, absent] = 0
    assert absent
    assert found == pytest.approx(float(torch.nn.functional.cross_entropy(logits, data.train.labels)), rel=1e-5)


def test_a_mini_batch_is_drawn_by_round_and_node() -> None:
    request, state, context = asked(Plan(), "none", batch=9)
    flat = encode(flatten(state))
    first, again = (answer_losses(request, flat, context).metrics for _ in range(2))
    assert first == again
    assert first["num-examples"] == 9
    assert answer_losses(replace(request, round_number=5), flat, context).metrics["loss"] != first["loss"]


@pytest.mark.parametrize(("norm", "rate"), [("none", "1"), ("none", "1/4"), ("group", "1/2")])
def test_the_gradient_is_the_slope_of_that_loss(norm: str, rate: str) -> None:
    """Central differences along the gradient, in float32."""
    request, state, context = asked(Plan(Fraction(rate)), norm)
    part = submodel(request.network, request.plan)
    reply = answer_gradients(request, encode(flatten(state)), context)
    assert reply.array is not None
    gradient = decode(reply.array, part.numel)
    at = flatten(part.gather(state))

    def loss(step: float) -> float:
        return answer_losses(replace(request, sliced=True), encode(at + step * gradient), context).metrics["loss"]

    step = 0.01 / float(gradient.norm())
    assert (loss(step) - loss(-step)) / (2 * step) == pytest.approx(float(gradient @ gradient), rel=0.02)


def test_the_gradient_with_static_statistics_covers_the_norms_too() -> None:
    request, state, context = asked(Plan(), "static-batch")
    reply = answer_gradients(request, encode(flatten(state)), context)
    assert reply.array is not None
    part = submodel(request.network, request.plan)
    pieces = part.split(decode(reply.array, part.numel))
    assert all(piece.isfinite().all() and piece.abs().sum() > 0 for name, piece in pieces.items() if "norm" in name)


def test_squares_come_only_when_they_are_asked_for(tmp_path: Path) -> None:
    said: dict[str, list[Mapping[str, Any]]] = {}
    for name in ("oort", "uniform"):
        said[name] = []

        def faults(request: Message, reply: Message, name: str = name) -> list[Message]:
            if request.metadata.message_type == TRAIN:
                said[name].append(dict(reply.content.metric_records["metrics"]))
            return [reply]

        play(tmp_path / name, faults, selection=name, method="fedavg")
    assert all("loss-square" not in metrics for metrics in said["uniform"])
    for metrics in said["oort"]:  # the mean square is at least the squared mean
        assert metrics["loss-square"] >= metrics["loss"] ** 2 * 0.999


# ---- weights ---------------------------------------------------------------------------------------------------------


class Fixed(Selector):
    """The same nodes with the same weights in every round."""

    def __init__(self, nodes: tuple[int, ...], weights: tuple[float, ...] | None) -> None:
        self._selection = Selection(nodes, weights)

    def select(self, candidates: Candidates, count: int, draws: np.random.Generator, probe: Probe) -> Selection:
        return self._selection


def after_one_round(nodes: tuple[int, ...], weights: tuple[float, ...] | None, tmp_path: Path, **keys: Any) -> Any:
    run = run_of(tmp_path / f"{nodes}{weights}", norm="group", partition="dirichlet", num_server_rounds=1, **keys)
    settings = replace(run.strategy.settings, selector=Fixed(nodes, weights))
    strategy = type(run.strategy)(run.strategy.network, settings, **run.strategy.options)
    state = initial_state(strategy.network, torch_generator(1, 0, "server", "initial state"))
    for name, tensor in state.items():
        strategy.state[name].copy_(tensor)
    strategy.run_round(run.grid, 1)
    return {name: tensor.clone() for name, tensor in strategy.state.items()}


def test_the_selections_weights_reach_the_mean(tmp_path: Path) -> None:
    """FedAvg of three nodes with weights: the same mean of the three states that each would give alone."""
    keys = {"method": "fedavg", "aggregation": "uniform"}
    alone = [after_one_round((node,), None, tmp_path, **keys) for node in (5, 1, 4)]
    weights = (2.0, 7.0, 1.0)
    together = after_one_round((5, 1, 4), weights, tmp_path, **keys)
    for name, tensor in together.items():
        expected = sum(w * state[name].double() for w, state in zip(weights, alone, strict=True)) / sum(weights)
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-4, atol=1e-6)


def test_weights_are_per_coordinate_where_tiers_differ(tmp_path: Path) -> None:
    """Where only one of the two is there, its weight does not matter; where both are, it does."""
    config = configured(method="heterofl")
    strategy = config.strategy()
    tiers = {node: tier_of(strategy, node) for node in range(6)}
    wide = next(node for node, tier in tiers.items() if tier.name == "a")
    narrow = next(node for node, tier in tiers.items() if tier.name == "c")
    keys = {"method": "heterofl", "heterofl_label_rows": False}
    plain, heavy = (after_one_round((wide, narrow), weights, tmp_path, **keys) for weights in (None, (1.0, 9.0)))
    block = submodel(strategy.network, strategy.kept_plan(strategy.context(1), Tier("c", tiers[narrow].rate)))
    changed = 0
    for name, tensor in plain.items():
        rows = dict(block.items())[name].local_shape
        inner = tuple(slice(0, size) for size in rows)
        changed += not torch.equal(tensor[inner], heavy[name][inner])
        outside = torch.ones_like(tensor, dtype=torch.bool)
        outside[inner] = False
        torch.testing.assert_close(tensor[outside], heavy[name][outside], rtol=1e-5, atol=1e-7)
    assert changed > 4


@pytest.mark.parametrize("selection", ["by-size-replacement", "pow-d", "divfl"])
def test_size_does_not_count_twice(tmp_path: Path, selection: str) -> None:
    """FedAvg weighs by examples; not where they counted in the choice, unless the user says so."""
    keys: dict[str, Any] = {"method": "fedavg", "selection": selection, "partition": "dirichlet", "fraction_train": 0.7}
    keys |= {"num_server_rounds": 1, "norm": "none"}
    by_method, uniform, by_examples = (
        play(tmp_path / kind, aggregation=kind, **keys).hash for kind in ("method", "uniform", "examples")
    )
    assert by_method == uniform != by_examples


def test_uniform_selection_leaves_the_methods_weights(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"method": "fedavg", "partition": "dirichlet", "fraction_train": 0.7, "num_server_rounds": 1}
    by_method, uniform, by_examples = (
        play(tmp_path / kind, aggregation=kind, **keys).hash for kind in ("method", "uniform", "examples")
    )
    assert by_method == by_examples != uniform


# ---- before anything starts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"selection": "pow-d", "selection_candidates": 2}, r"selection-candidates = 2: allowed is 3 .* to 6 "),
        ({"selection": "pow-d", "selection_candidates": 7}, r"selection-candidates = 7: allowed is 3 .* to 6 "),
        ({"selection": "utility", "selection_candidates": 7}, r"selection-candidates = 7: allowed is 3 .* to 6 "),
        ({"selection": "best"}, r"selection = 'best': allowed is one of uniform, by-size, "),
        (
            {"selection": "rpow-d", "selection_compare": "common"},
            r"selection-compare = 'common': allowed is one of tier-rank, raw",
        ),
        ({"selection": "oort", "oort_exploration": 1.5}, r"oort-exploration = 1.5: allowed is 0 to 1"),
        ({"selection": "divfl", "divfl_size": 0}, r"divfl-size = 0: allowed is 1 to 65536"),
        ({"selection": "divfl", "divfl_vectors": "some"}, r"divfl-vectors = 'some': allowed is one of projected, last"),
    ],
)
def test_one_clear_line(keys: dict[str, Scalar], line: str) -> None:
    with pytest.raises(SettingError, match=f"^{line}") as caught:
        configured(fraction_train=0.5, **keys)
    assert "\n" not in str(caught.value)


def test_a_strategy_of_ones_own_takes_a_selector(tmp_path: Path) -> None:
    """As in any Flower app: the selector is an argument."""
    config = configured(method="fedavg")
    strategy = FedAvg(
        config.network,
        Settings(selector=selector("pow-d", {"selection-candidates": 4}), nodes=6, fraction_train=0.5),
    )
    run = run_of(tmp_path, method="fedavg")
    report = strategy.run_round(run.grid, 1)
    assert len(report.selected) == report.accepted == 3
