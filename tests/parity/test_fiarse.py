"""FIARSE: the authors' mask, gradient and average (reference notes §8.3), and that both sides find the same mask.

The rule: with scores |w| over all weights and biases but those of norms, θ is the k-th largest score of a share;
forward w·[|w| ≥ θ]; the step [s ≥ θ] is given the slope 2θ/(s + θ)² in s on what is kept. The server divides the sum of
the differences by the number of clients whose difference is not zero, per coordinate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from math import ceil
from random import Random
from typing import Any

import pytest
import torch
from flwr.app import Context
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from client_app.device import data_of
from client_app.handlers import answer_train
from client_app.model_cache import local_model
from client_app.objectives import objective
from client_app.objectives.base import ObjectiveContext
from client_app.objectives.importance import kept
from models import NetworkSpec, Plan, Submodel, build, completed, flatten, initial_state, submodel, torch_generator
from models.algebra.average import norm_of
from models.algebra.rates import single
from models.cost import cost_of
from models.variants.importance import threshold
from protocol import FedDyn, Objective, Optimiser, TrainRequest, Work, decode, encode
from strategies import FIARSE, Settings
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.update import ClientUpdate
from strategies.tiers.tier import Tier
from tests.client_app.test_model_cache import device
from tests.models.generators import bits
from tests.parity.rounds import node
from tests.support import Player

TIERS = tuple(Tier(name, Fraction(text)) for name, text in zip("abcd", ("1", "1/4", "1/16", "1/64"), strict=True))
MLP = completed(NetworkSpec("mlp", (1, 8, 8), 10, widths=(40, 24)))
RESNET = completed(NetworkSpec("resnet-post", (3, 8, 8), 7, widths=(6, 9), blocks=(2, 1), norm="group"))
EACH = pytest.mark.parametrize("spec", [MLP, RESNET], ids=["mlp", "resnet"])
CPU = torch.device("cpu")


def strategy_of(spec: NetworkSpec, *, ties: bool = False, **settings: Any) -> FIARSE:
    """A strategy that has a state."""
    strategy = FIARSE(spec, Settings(tiers=TIERS, **settings))
    for name, tensor in initial_state(strategy.network, torch_generator(5, 0, "server", "initial")).items():
        strategy.state[name].copy_(torch.round(30 * tensor) / 30 if ties else tensor)
    return strategy


def competes(name: str) -> bool:
    return not any(part.startswith("norm") for part in name.split("."))


def released_masks(state: dict[str, Tensor], keep: Fraction) -> tuple[float, dict[str, Tensor]]:
    """θ and what is kept, by a sort."""
    scores = sorted((s for name in state if competes(name) for s in state[name].abs().flatten().tolist()), reverse=True)
    least = scores[ceil(keep * len(scores)) - 1]
    masks = {n: t.abs() >= least if competes(n) else torch.ones_like(t, dtype=torch.bool) for n, t in state.items()}
    return least, masks


def masks_of(part: Submodel) -> dict[str, Tensor]:
    return {
        name: torch.ones(block.local_shape, dtype=torch.bool) if block.mask is None else block.mask
        for name, block in part.items()
    }


# ---- masks -----------------------------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("tier", TIERS, ids=[str(tier.rate) for tier in TIERS])
def test_server_and_device_have_the_authors_mask(spec: NetworkSpec, tier: Tier, ties: bool) -> None:
    strategy = strategy_of(spec, ties=ties)
    plan = strategy.plan(strategy.context(3), node(0), tier)
    server = strategy.part(strategy.context(1), plan, strategy.state)
    if tier.rate < 1:
        _, expected = released_masks(strategy.state, single(tier.rate))
        assert all(torch.equal(mask, expected[name]) for name, mask in masks_of(server).items())
    model, held = local_model(strategy.network, plan, CPU), server.gather(strategy.state)
    for received, sliced in ((flatten(strategy.state), False), (flatten(held), True)):
        model.load(strategy.network, plan, received, sliced=sliced)
        assert all(torch.equal(masks_of(model.part)[name], mask) for name, mask in masks_of(server).items())
        assert all(bits(tensor) == bits(held[name]) for name, tensor in model.module.state_dict().items())


def test_the_mask_follows_the_state() -> None:
    strategy = strategy_of(MLP)
    plan = strategy.kept_plan(strategy.context(1), TIERS[2])
    before = strategy.part(strategy.context(1), plan, strategy.state)
    name = next(name for name, block in before.items() if block.mask is not None and not block.mask.all())
    mask = before[name].mask
    assert mask is not None
    place = (~mask).nonzero()[0]
    strategy.state[name][tuple(place)] = 100.0
    after = strategy.part(strategy.context(1), plan, strategy.state)[name].mask
    assert after is not None
    assert after[tuple(place)]
    other = {key: tensor * 0 + 1 for key, tensor in strategy.state.items()}
    assert all(mask.all() for mask in masks_of(strategy.part(strategy.context(1), plan, other)).values())


# ---- the device ------------------------------------------------------------------------------------------------------


def surrogate(weight: Tensor, least: float) -> Tensor:
    """w·[|w| ≥ θ] by autograd: the step's value, with the slope of -2θ/(s + θ), which is 2θ/(s + θ)²."""
    size = weight.abs()
    step = (size >= least).float()
    slope = -2 * least / (size + least)
    return weight * (step + step * (slope - slope.detach()))


@pytest.mark.parametrize("least", [1e-3, 0.25, 1.0, 3.0])
def test_the_gradient_is_that_of_the_released_step(least: float) -> None:
    draws = torch.Generator().manual_seed(3)
    weight = torch.randn(2000, generator=draws)
    weight[:2] = torch.tensor([least, -least])
    above = torch.randn(2000, generator=draws)
    gradients = []
    for function in (kept, surrogate):
        w = weight.clone().requires_grad_()
        out = function(w, least)
        assert torch.equal(out.detach(), weight * (weight.abs() >= least))
        gradients.append(torch.autograd.grad((out * above).sum(), w)[0])
    torch.testing.assert_close(gradients[0], gradients[1])
    factor = gradients[0] / above
    torch.testing.assert_close(factor[:2], torch.tensor([1.5, 1.5]))
    assert (factor[weight.abs() < least] == 0).all()
    assert ((factor >= 1) & (factor <= 1.5 + 1e-6))[weight.abs() >= least].all()


def _train(
    spec: NetworkSpec,
    plan: Plan,
    state: Mapping[str, Tensor],
    optimiser: Optimiser,
    steps: int,
    context: Context | None = None,
    **changes: Any,
) -> Tensor:
    """What the ClientApp replies; one batch of everything a step."""
    work = Work(batch_size=1000, device="cpu", local_steps=steps)
    through = Objective("importance-masked")
    asked = TrainRequest(
        round_number=1, nonce="n", seed=1, network=spec, plan=plan, work=work, optimiser=optimiser, objective=through
    )
    reply = answer_train(replace(asked, **changes), encode(flatten(state)), context or device())
    assert reply.array is not None
    return decode(reply.array, submodel(spec, plan).numel).clone()


@pytest.mark.parametrize("tier", TIERS, ids=[str(tier.rate) for tier in TIERS])
def test_a_device_trains_as_the_released_code_does(tier: Tier) -> None:
    """Several steps of plain SGD, in which some weights fall under the threshold and stop."""
    strategy, steps, rate = strategy_of(MLP), 6, 0.5
    plan, state = strategy.plan(strategy.context(1), node(0), tier), dict(strategy.state)
    examples = data_of(device()).train
    least, masks = released_masks(state, single(tier.rate))
    least = 0.0 if tier.rate == 1 else least
    network = build(MLP).train()
    weights = {name: (tensor.clone()).requires_grad_() for name, tensor in state.items()}
    for _ in range(steps):
        used = {name: surrogate(w, least) if least and competes(name) else w for name, w in weights.items()}
        loss = F.cross_entropy(functional_call(network, used, (examples.inputs,)), examples.labels)
        for weight, gradient in zip(weights.values(), torch.autograd.grad(loss, list(weights.values())), strict=True):
            weight.data -= rate * gradient
    difference = _train(strategy.network, plan, state, Optimiser(rate), steps)
    fell = 0
    for name, piece in submodel(strategy.network, plan).split(difference).items():
        expected = weights[name].detach() - state[name]
        torch.testing.assert_close(piece, expected, rtol=1e-3, atol=1e-5, msg=name)
        if competes(name) and least:
            assert not piece[~masks[name]].any()
            fell += int((masks[name] & (weights[name].detach().abs() < least)).sum())
    assert fell or tier.rate == 1


def test_what_is_masked_stays_put_with_momentum_and_weight_decay_too() -> None:
    strategy = strategy_of(MLP)
    plan = strategy.plan(strategy.context(1), node(0), TIERS[1])
    difference = _train(MLP, plan, strategy.state, Optimiser(0.2, 0.9, weight_decay=5e-4, clip_norm=1.0), 8)
    _assert_moved_inside(strategy.part(strategy.context(1), plan, strategy.state), difference)


def _assert_moved_inside(part: Submodel, difference: Tensor) -> None:
    for name, piece in part.split(difference).items():
        mask = masks_of(part)[name]
        assert not piece[~mask].any()
        assert piece[mask].any()


def test_feddyns_regulariser_does_not_move_what_is_masked() -> None:
    """Not even by what it remembers of rounds in which it was not masked."""
    strategy, context = strategy_of(MLP), device()
    optimiser = Optimiser(0.2, 0.9, weight_decay=5e-4, clip_norm=1.0)
    for number, tier in enumerate((TIERS[0], TIERS[1]), 1):
        plan = strategy.plan(strategy.context(number), node(0), tier)
        difference = _train(
            MLP,
            plan,
            strategy.state,
            optimiser,
            4,
            context,
            round_number=number,
            counted=number - 1,
            dynamic_regulariser=FedDyn(alpha=0.5),
        )
    _assert_moved_inside(strategy.part(strategy.context(1), plan, strategy.state), difference)


def test_a_threshold_of_zero_trains_everything_plainly() -> None:
    """Half of the weights are zero, so any share above a half has θ = 0: 0/0 must not get into the gradient."""
    state = dict(strategy_of(MLP).state)
    state["stages.0.0.weight"] = torch.where(torch.rand(40, 64) < 0.9, 0.0, state["stages.0.0.weight"])
    plan = Plan(keep=Fraction(63, 64))
    assert threshold(state, strategy_of(MLP).context(1).layout, plan.keep) == 0
    model = local_model(MLP, plan, CPU)
    model.load(MLP, plan, flatten(state), sliced=False)
    none: Any = None
    loss = objective(
        "importance-masked",
        ObjectiveContext(module=model.module, spec=MLP, plan=plan, labels=(0,), settings={}, draws=none, memory=none),
    )
    value, _ = loss(torch.ones(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64))
    value.backward()  # type: ignore[no-untyped-call]
    gradient = model.module.get_parameter("stages.0.0.weight").grad
    assert gradient is not None
    assert gradient.isfinite().all()


# ---- the server ------------------------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("seed", range(3))
def test_several_rounds_are_the_authors(spec: NetworkSpec, seed: int) -> None:
    """Eight clients of random tiers over three rounds, from one state on."""
    strategy, draws = strategy_of(spec), Random(seed)
    expected = {name: tensor.clone() for name, tensor in strategy.state.items()}
    for number in range(1, 4):
        chosen = draws.choices(TIERS[1:] if number == 2 else TIERS, k=8)
        total = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
        count = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
        average, context = strategy.runner.main.average, strategy.context(number)
        average.reset()
        parts = {tier: strategy.part(context, strategy.kept_plan(context, tier), strategy.state) for tier in TIERS}
        for i, tier in enumerate(chosen):
            masks = released_masks(expected, single(tier.rate))[1] if tier.rate < 1 else masks_of(parts[tier])
            noise = torch.Generator().manual_seed(1000 * number + i)
            moved = {n: torch.where(masks[n], torch.randn(t.shape, generator=noise), 0.0) for n, t in expected.items()}
            for name, delta in moved.items():
                total[name] += delta
                count[name] += delta != 0
            who = node(i, examples=1 + 7 * i)
            assignment = TrainAssignment(
                node=who,
                tier=tier.name,
                plan=strategy.plan(context, who, tier),
                part=parts[tier],
                nonce="nonce",
            )
            update = ClientUpdate(
                difference=flatten(moved),
                metrics={"num-examples": float(who.hello.examples)},
                norm=norm_of(flatten(moved)),
            )
            average.add(parts[tier], update.difference, *strategy.weigh(context, assignment, update))
        untouched = {name: (count[name] == 0, bits(strategy.state[name][count[name] == 0])) for name in expected}
        average.finish(strategy.state, out=strategy.state)
        for name, tensor in expected.items():
            tensor.add_(torch.nan_to_num(total[name] / count[name]))
            torch.testing.assert_close(strategy.state[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
            free, before = untouched[name]
            assert bits(strategy.state[name][free]) == before
            tensor.copy_(strategy.state[name])  # the next masks are of the same bits
        assert number != 2 or any(free.any() for free, _ in untouched.values())


def test_a_share_of_one_is_unweighted_fedavg(play: Player) -> None:
    """Bit for bit."""
    keys: dict[str, Any] = {"tiers": "a:1", "norm": "static-batch", "scaler": "off", "num_server_rounds": 3}
    keys["train_as"] = "loop"  # masked weights are
    plain = play(method="fedavg", aggregation="uniform", **keys)
    assert play(method="fiarse", **keys).hash == plain.hash
    assert play(method="fiarse", **keys | {"tiers": "a:1/2"}).hash != plain.hash


def test_a_tier_is_scored_with_its_mask(play: Player) -> None:
    """The run's numbers are those of the masked state, not of the whole one."""
    out = play(method="fiarse", tiers="a:1, b:1/50", norm="group", scaler="off")
    tiers = out.rows[-1]["tiers"]
    assert tiers["b"]["loss"] != tiers["a"]["loss"] == out.rows[-1]["loss"]


def test_parameters_are_those_that_count_and_nothing_else_gets_smaller(play: Player) -> None:
    whole, few = (cost_of(MLP, Plan(keep=keep)) for keep in (Fraction(1), Fraction(1, 10)))
    norms = 2 * (40 + 24)
    assert few.parameters == norms + ceil(Fraction(whole.parameters - norms, 10))
    assert few.macs == whole.macs
    tiers = play(method="fiarse", tiers="a:1, b:1/4").summary["last"]["tiers"]
    assert tiers["a"]["bytes_up"] == tiers["b"]["bytes_up"]
    assert tiers["a"]["bytes_down"] == tiers["b"]["bytes_down"]


@pytest.mark.parametrize("scaling", ["all", "holders"])
def test_with_feddyn(play: Player, scaling: str) -> None:
    """Its server half counts the holders of every coordinate."""
    out = play(method="fiarse", dynamic_alpha="0.1", dynamic_scaling=scaling, num_server_rounds=3)
    assert out.summary["status"] == "finished"
    assert not out.rejected
    assert all(tensor.isfinite().all() for tensor in out.state.values())
