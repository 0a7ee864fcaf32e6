"""FedProx: a client's steps against autograd on F(w) + μ/2·‖w - w_t‖², and plain FedAvg at μ = 0."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from client_app.device import data_of
from client_app.handlers import answer_train
from models.algebra.plans import Plan
from models.algebra.submodel import flatten
from models.networks.build import build, submodel
from models.networks.complete import completed
from models.networks.spec import NetworkSpec
from protocol import Optimiser, TrainRequest, Work, decode, encode
from strategies import FedProx, Settings
from strategies.aggregation.base import Update
from strategies.aggregation.fednova import FedNova
from tests.parity.rounds import state_of
from tests.support import Player, context_of, keys_of

MLP = completed(NetworkSpec("mlp", (1, 8, 8), 10, widths=(16, 8), norm="none"))


@pytest.mark.parametrize(("mu", "momentum"), [(0.5, 0.0), (3.0, 0.0), (0.5, 0.9), (0.0, 0.9)])
def test_a_device_descends_along_the_papers_objective(mu: float, momentum: float) -> None:
    state, steps, rate = state_of(MLP), 8, 0.1
    device = context_of(node_config={"partition-id": 0, "num-partitions": 6}, run_config=keys_of())
    optimiser = Optimiser(rate, momentum, proximal=mu)
    request = TrainRequest(
        round_number=1,
        nonce="n",
        seed=1,
        network=MLP,
        plan=Plan(),
        work=Work(local_steps=steps, batch_size=10**9),  # so every step sees all examples
        optimiser=optimiser,
    )
    array = answer_train(request, encode(flatten(state)), device).array
    assert array is not None
    found = submodel(MLP, Plan()).split(decode(array, submodel(MLP, Plan()).numel))
    examples, network = data_of(device).train, build(MLP)
    weights = {name: tensor.clone().requires_grad_() for name, tensor in state.items()}
    velocity = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    for _ in range(steps):
        loss = F.cross_entropy(functional_call(network, weights, (examples.inputs,)), examples.labels)
        loss = loss + mu / 2 * sum(((w - state[name]) ** 2).sum() for name, w in weights.items())
        gradients = torch.autograd.grad(loss, list(weights.values()))
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            velocity[name] = momentum * velocity[name] + gradient
            weight.data -= rate * velocity[name]
    for name, piece in found.items():
        torch.testing.assert_close(piece, weights[name].detach() - state[name], rtol=1e-3, atol=1e-5, msg=name)


def test_the_request_has_the_term() -> None:
    strategy = FedProx(MLP, Settings(), mu=0.25)
    context = strategy.context(3)
    plain = context.settings.schedule.optimiser(3)
    assert strategy.optimiser(context, context.settings.tiers[0]) == Optimiser(
        plain.learning_rate,
        plain.momentum,
        weight_decay=plain.weight_decay,
        clip_norm=plain.clip_norm,
        proximal=0.25,
    )


def test_without_the_term_it_is_fedavg(play: Player) -> None:
    """Bit for bit."""
    plain = play.once(method="fedavg")
    assert play(method="fedprox", fedprox_mu=0.0).hash == plain.hash
    assert play(method="fedprox", fedprox_mu=1.0).hash != plain.hash


def test_fednova_knows_that_the_term_draws_steps_back() -> None:
    """With μη = c every step goes back by c of the way: ‖a‖₁ = (1 - (1-c)^τ)/c, the paper's proximal case."""
    metrics: dict[str, Any] = {"num-examples": 1.0, "steps": 5.0}
    optimiser = Optimiser(0.2, proximal=0.5)
    update = Update(node=1, weight=1.0, metrics=metrics, optimiser=optimiser)
    assert FedNova().effective_steps(update) == pytest.approx((1 - 0.9**5) / 0.1)
