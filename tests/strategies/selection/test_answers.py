"""What a client answers to a selector: losses, gradients, squares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message

from client_app.device import data_of
from client_app.handlers import answer_gradients, answer_losses
from flotilla.local.grid import contexts
from models.algebra.plans import Plan
from models.algebra.submodel import flatten
from models.evaluation import evaluate
from models.networks.build import build_part, initial_state, submodel
from models.randomness import torch_generator
from models.statistics import collect, needs_statistics, set_statistics
from protocol import TRAIN, LossRequest, decode, encode
from tests.support import address_of, configured, play


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
