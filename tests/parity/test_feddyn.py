"""FedDyn: the server's h against the paper's and the released code's form, the client's term against autograd."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from flwr.app import Context
from safetensors.torch import load_file
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from client_app.client_state import ClientState
from client_app.device import data_of
from client_app.feddyn import NAME, FedDynRegulariser
from client_app.handlers import answer_train
from client_app.model_cache import LocalModel
from models import NetworkSpec, PartialAverage, Plan, build, completed, layout, submodel
from models.algebra.box_vector import BoxVector
from models.algebra.submodel import flatten, split
from protocol import FedDyn, Optimiser, TrainRequest, Work, decode, encode
from strategies.aggregation.feddyn import FedDynCorrection
from tests.parity.rounds import state_of
from tests.support import Player, configured, context_of, keys_of, tier_of

SPEC = completed(NetworkSpec("cnn", (1, 8, 8), 5, widths=(4, 6), exits="plain", norm="none"))
MLP = completed(NetworkSpec("mlp", (1, 8, 8), 10, widths=(16, 8), norm="none"))
ALPHA = 0.3


def _played(rounds: int, nodes: int, active: int, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """States by our rule, and by the released code's: mean of the active plus the mean of everybody's drift l."""
    draws = torch.Generator().manual_seed(seed)
    whole = submodel(SPEC, Plan())
    ours = {name: tensor.clone() for name, tensor in state_of(SPEC).items()}
    theirs = flatten(ours).double()
    drift = torch.zeros(nodes, whole.numel, dtype=torch.float64)
    dynamic, average = FedDynCorrection(ALPHA, layout(SPEC), nodes), PartialAverage(layout(SPEC))
    found, expected = [], []
    for _ in range(rounds):
        chosen = torch.randperm(nodes, generator=draws)[:active]
        moved = torch.randn(active, whole.numel, generator=draws)
        average.reset()
        before = {name: tensor.clone() for name, tensor in ours.items()}
        for difference in moved:
            average.add(whole, difference)
        average.finish(ours, out=ours)
        dynamic.correct(ours, before, average, list)
        drift[chosen] += moved.double()
        theirs = theirs + moved.double().mean(0) + drift.mean(0)
        found.append(flatten(ours))
        expected.append(theirs.float())
    return found, expected


@pytest.mark.parametrize(("nodes", "active"), [(6, 6), (20, 3), (7, 1)])
def test_papers_form_is_the_released_codes(nodes: int, active: int) -> None:
    for ours, theirs in zip(*_played(20, nodes, active, seed=nodes), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_first_full_round_is_twice_the_mean_minus_the_old() -> None:
    (state, *_), _ = _played(1, 5, 5, seed=3)
    draws = torch.Generator().manual_seed(3)
    torch.randperm(5, generator=draws)
    moved = torch.randn(5, submodel(SPEC, Plan()).numel, generator=draws)
    old = flatten(state_of(SPEC))
    torch.testing.assert_close(state, 2 * (old + moved.mean(0)) - old, rtol=1e-4, atol=1e-5)


def test_submodels_have_h_where_they_hold_something_and_nothing_else_moves() -> None:
    """DepthFL's rule, transcribed: h by tensor, count of those who sent it over the number of all clients."""
    torch.manual_seed(0)
    nodes, plans = 8, [Plan(depth=1), Plan(depth=1), Plan(depth=1)]
    dynamic, average = FedDynCorrection(ALPHA, layout(SPEC), nodes), PartialAverage(layout(SPEC))
    state = {name: tensor.clone() for name, tensor in state_of(SPEC).items()}
    h = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    for round_plans in ([*plans, Plan()], plans, [Plan(), Plan(depth=1)]):
        before = {name: tensor.clone() for name, tensor in state.items()}
        sent = [(submodel(SPEC, plan), torch.randn(submodel(SPEC, plan).numel)) for plan in round_plans]
        average.reset()
        for part, difference in sent:
            average.add(part, difference)
        average.finish(state, out=state)
        dynamic.correct(state, before, average, list)
        for name, old in before.items():
            pieces = [part.split(difference)[name] for part, difference in sent if name in part]
            if not pieces:
                assert torch.equal(state[name], old), name
                assert torch.equal(dynamic.h[name], h[name]), name
                continue
            mean = old + torch.stack(pieces).mean(0)
            h[name] = h[name] - ALPHA * len(pieces) / nodes * (mean - old)
            torch.testing.assert_close(state[name], mean - h[name] / ALPHA, rtol=1e-4, atol=1e-5)


def test_scaling_by_holders_counts_only_nodes_that_can_hold_a_coordinate() -> None:
    part, whole = submodel(SPEC, Plan(depth=1)), submodel(SPEC, Plan())
    dynamic, average = FedDynCorrection(ALPHA, layout(SPEC), 10, "holders"), PartialAverage(layout(SPEC))
    state = {name: tensor.clone() for name, tensor in state_of(SPEC).items()}
    before = {name: tensor.clone() for name, tensor in state.items()}
    average.add(whole, torch.ones(whole.numel))
    average.finish(state, out=state)
    dynamic.correct(state, before, average, lambda: [(part, 8), (whole, 2)])
    for name in whole:
        able = 10 if name in part else 2
        torch.testing.assert_close(dynamic.h[name], torch.full_like(state[name], -ALPHA / able))


def test_statistics_are_plain_means_without_h() -> None:
    spec = completed(NetworkSpec("mlp", (1, 2, 2), 3, widths=(4,), norm="batch-per-width", rates=(Fraction(1),)))
    whole, state = submodel(spec, Plan()), {n: t.clone() for n, t in state_of(spec).items()}
    before = {name: tensor.clone() for name, tensor in state.items()}
    dynamic, average = FedDynCorrection(ALPHA, layout(spec), 4), PartialAverage(layout(spec))
    average.add(whole, torch.ones(whole.numel))
    average.finish(state, out=state)
    dynamic.correct(state, before, average, list)
    buffers = [name for name, tensor in layout(spec).tensors.items() if tensor.buffer]
    assert len(buffers) == 2
    for name in state:
        moved = 1.0 if name in buffers else 1.25
        torch.testing.assert_close(state[name], before[name] + moved)


# ---- the client ------------------------------------------------------------------------------------------------------


def _context() -> Context:
    return context_of()


@pytest.mark.parametrize("plan", [Plan(), Plan(depth=1), Plan(Fraction(1, 2))])
def test_clients_gradient_is_that_of_the_papers_objective(plan: Plan) -> None:
    draws = torch.Generator().manual_seed(1)
    part, memory = submodel(SPEC, plan), ClientState(_context(), 0, 2, checkpoint=0)
    known = torch.randn(layout(SPEC).parameters, generator=draws)
    Memory_before = ClientState(context := _context(), 0, 1, checkpoint=0)
    Memory_before.write(NAME, BoxVector(layout(SPEC), submodel(SPEC, Plan()), known).to_vector())
    memory = ClientState(context, 0, 2, checkpoint=0)
    model = LocalModel(SPEC, plan, torch.device("cpu"))
    model.load(SPEC, plan, flatten(state_of(SPEC)), sliced=False)
    start = model.flat.clone()
    regulariser = FedDynRegulariser(model, spec=SPEC, alpha=ALPHA, memory=memory)
    assert not regulariser.began_anew
    model.flat += 0.1 * torch.randn(model.flat.shape, generator=draws)  # as if some steps had been made
    x, y = torch.randn(4, 1, 8, 8, generator=draws), torch.tensor([0, 1, 2, 3])
    F.cross_entropy(model.module(x), y).backward()  # type: ignore[no-untyped-call]
    plain = {name: p.grad.clone() for name, p in model.module.named_parameters() if p.grad is not None}
    regulariser.add_linear()
    regulariser.add_quadratic()

    linear = flatten(part.gather(split(known, {n: t.shape for n, t in layout(SPEC).tensors.items()})))
    theta = model.flat.detach().clone().requires_grad_()
    (-(theta * linear).sum() + ALPHA / 2 * (theta - start).square().sum()).backward()  # type: ignore[no-untyped-call]
    assert theta.grad is not None
    extra = part.split(theta.grad)
    for name, parameter in model.module.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, plain[name] + extra[name], rtol=1e-4, atol=1e-5)

    regulariser.keep()
    vector = ClientState(context, 0, 3, checkpoint=0).read(NAME)
    assert vector is not None
    held = BoxVector.from_vector(vector, layout(SPEC))
    assert held is not None
    kept = held.values  # of everything, as it was before
    expected = linear - ALPHA * (model.flat - start)
    found = flatten(part.gather(split(kept, {n: t.shape for n, t in layout(SPEC).tensors.items()})))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    everywhere = torch.ones_like(known, dtype=torch.bool)
    shapes = {n: t.shape for n, t in layout(SPEC).tensors.items()}
    for block in part.values():
        block.scatter(torch.zeros(block.local_shape, dtype=torch.bool), split(everywhere, shapes)[block.source])
    assert torch.equal(kept[everywhere], known[everywhere])  # what is not held keeps its g


@pytest.mark.parametrize("clip", [0.0, 0.3])
def test_a_device_clips_the_linear_term_and_not_the_quadratic_one(clip: float) -> None:
    """As the released code, whose quadratic term is weight decay; two steps and more on all examples, transcribed."""
    state, rate, steps = flatten(state_of(MLP)), 0.2, 6
    linear = 0.05 * torch.randn(state.shape, generator=torch.Generator().manual_seed(1))
    device = context_of(node_config={"partition-id": 0, "num-partitions": 6}, run_config=keys_of())
    whole = submodel(MLP, Plan())
    ClientState(device, 0, 1, checkpoint=0).write(NAME, BoxVector(layout(MLP), whole, linear).to_vector())
    request = TrainRequest(
        round_number=2,
        nonce="n",
        seed=1,
        network=MLP,
        plan=Plan(),
        work=Work(local_steps=steps, batch_size=10**9),
        optimiser=Optimiser(rate, clip_norm=clip),
        dynamic_regulariser=FedDyn(alpha=2.0),
        counted=1,
    )
    array = answer_train(request, encode(state), device).array
    assert array is not None
    examples, network, theta = data_of(device).train, build(MLP), state.clone()
    clipped = 0
    for _ in range(steps):
        weights = {name: piece.clone().requires_grad_() for name, piece in whole.split(theta).items()}
        loss = F.cross_entropy(functional_call(network, weights, (examples.inputs,)), examples.labels)
        gradient = flatten(dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))) - linear
        if clip and gradient.norm() > clip:
            gradient, clipped = gradient * clip / gradient.norm(), clipped + 1
        theta = theta - rate * (gradient + 2.0 * (theta - state))
    assert clipped == (steps if clip else 0)
    torch.testing.assert_close(decode(array, whole.numel), theta - state, rtol=1e-3, atol=1e-5)


def test_a_device_that_lost_its_memory_begins_at_zero_and_says_so() -> None:
    model = LocalModel(SPEC, Plan(), torch.device("cpu"))
    model.load(SPEC, Plan(), flatten(state_of(SPEC)), sliced=False)
    regulariser = FedDynRegulariser(model, spec=SPEC, alpha=ALPHA, memory=ClientState(_context(), 0, 5, checkpoint=4))
    assert regulariser.began_anew


def test_a_device_keeps_the_term_of_what_it_ever_held(play: Player) -> None:
    """As many numbers as its part has, and which these are: an eighth of the units, or one stage of two."""
    cases: list[tuple[dict[str, Any], float]] = [
        ({"method": "heterofl", "tiers": "a:1, b:1/8"}, 1 / 5),
        ({"method": "depthfl", "tiers": "a:1@2, b:1@1", "widths": "8, 64"}, 1 / 2),
    ]
    for keys, small in cases:
        out = play(dynamic_alpha="0.1", num_clients=4, **keys)
        config = configured(num_clients=4, **keys)
        strategy = config.strategy()
        found: dict[str, list[int]] = {"a": [], "b": []}
        for node in range(4):
            tier = tier_of(strategy, node)
            held = strategy.part(
                strategy.context(1), strategy.kept_plan(strategy.context(1), tier), strategy.state
            ).numel
            (newest, *_) = sorted((out.path / "clients" / str(node)).glob("dynamic@*"), reverse=True)
            (vector,) = load_file(newest).values()
            assert held < vector.numel() < held + 100  # and which coordinates these are
            found[tier.name].append(vector.numel())
        assert max(found["b"]) < small * min(found["a"])
