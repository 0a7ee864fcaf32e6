"""Rules whose average of what travels is the average of the products: against plain transcriptions of the formulas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from client_app.sgd import SGD
from models import NetworkSpec, base_store
from models.adapters.adapter import Adapter
from models.adapters.cores import fold_scales
from models.adapters.low_rank import paths_of_pairs, product
from models.adapters.own import begin_own, own_tensors
from models.algebra.plans import Plan
from models.errors import SettingError
from models.networks.bases import drawn_base
from models.networks.build import part_of, submodel
from protocol import Optimiser
from strategies import METHODS, FlowerStrategy, Settings
from strategies.tiers.tier import parse_ranks
from tests.parity.rounds import node

RANK = 4
SPEC = NetworkSpec("mlp", (1, 4, 4), 5, widths=(9, 7), norm="none", adapter=Adapter(rank=RANK, alpha=8.0))
SETTINGS = Settings(tiers=parse_ranks("a:4, b:2, c:1", RANK), nodes=4)


@dataclass(frozen=True, kw_only=True)
class Folded:
    """A round: each device's part of the state after its training, and the state of the server."""

    strategy: FlowerStrategy
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    left: Sequence[Mapping[str, Tensor]]


def folded(method: str, plans: Sequence[Plan], weights: Sequence[float], seed: int = 0) -> Folded:
    """Fold what devices send as a run does; they change everything that their plans train."""
    network = replace(SPEC, base=base_store.hold(drawn_base(SPEC, 1)))
    strategy = METHODS[method](network, SETTINGS)
    state, draws = strategy.runner.main, torch.Generator().manual_seed(seed)
    state.flat.copy_(torch.randn(state.flat.shape, generator=draws))
    before = {name: tensor.clone() for name, tensor in state.tensors.items()}
    left = []
    for plan, weight in zip(plans, weights, strict=True):
        part = submodel(strategy.network, plan)
        difference = 0.3 * torch.randn(part.numel, generator=draws)
        state.average.add(part, difference, weight, weight)
        left.append({name: part.gather(before)[name] + piece for name, piece in part.split(difference).items()})
    state.average.finish(state.tensors, out=state.tensors)
    if strategy.refines:
        strategy.refine(strategy.context(1), before, state.tensors, state.average, {})
    return Folded(strategy=strategy, before=before, after=state.tensors, left=left)


def products(strategy: FlowerStrategy, plan: Plan, state: Mapping[str, Tensor]) -> list[Tensor]:
    """(α/R)·B·…·A of every layer, as the network of a part has it."""
    network = part_of(strategy.network, plan, state)
    return [product(network.get_submodule(path)).detach() for path in paths_of_pairs(network)]


def of_device(done: Folded, number: int, plan: Plan) -> list[Tensor]:
    """Products of a device's network after its training."""
    state = {name: tensor.clone() for name, tensor in done.before.items()}
    for name, block in submodel(done.strategy.network, plan).items():
        block.scatter(done.left[number][name], state[name])
    return products(done.strategy, plan.holding, state)


def near(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> bool:
    return one.shape == other.shape and bool((one - other).norm() <= tolerance * other.norm().clamp_min(1e-9))


WEIGHTS = st.lists(st.floats(0.1, 50), min_size=1, max_size=4)


# ---- Fed-SB ----------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(weights=WEIGHTS, seed=st.integers(0, 99))
def test_the_average_core_is_the_average_product(weights: Sequence[float], seed: int) -> None:
    """Of equal ranks, whatever the weights; with pairs it would be another matrix."""
    plans = [Plan()] * len(weights)
    done = folded("fed-sb", plans, weights, seed)
    shares = [weight / sum(weights) for weight in weights]
    every = [of_device(done, number, plan) for number, plan in enumerate(plans)]
    for layer, found in enumerate(products(done.strategy, Plan(), done.after)):
        wanted = sum(share * one[layer] for share, one in zip(shares, every, strict=True))
        assert isinstance(wanted, Tensor)
        assert near(found, wanted)


def test_the_average_of_pairs_is_not() -> None:
    done = folded("rbla", [Plan()] * 3, [1.0, 1.0, 1.0])
    every = [of_device(done, number, Plan()) for number in range(3)]
    for layer, found in enumerate(products(done.strategy, Plan(), done.after)):
        assert not near(found, torch.stack([one[layer] for one in every]).mean(0), 0.02)


def test_a_cores_coordinate_is_averaged_over_those_who_held_it() -> None:
    """Coordinate (i, j) over the ranks above i and j, by examples."""
    ranks, weights = [4, 2, 2, 1], [10.0, 30.0, 5.0, 40.0]
    done = folded("fed-sb", [Plan(Fraction(rank, RANK)) for rank in ranks], weights)
    cores = [name for name in done.after if done.after[name].shape == (RANK, RANK)]
    assert len(cores) == 2
    for name in cores:
        for i in range(RANK):
            for j in range(RANK):
                held = [
                    (one[name][i, j], weight)
                    for one, rank, weight in zip(done.left, ranks, weights, strict=True)
                    if rank > max(i, j)
                ]
                wanted = sum(value * weight for value, weight in held) / sum(weight for _, weight in held)
                assert near(done.after[name][i, j], torch.as_tensor(wanted))


def test_one_devices_round_is_plain_training() -> None:
    done = folded("fed-sb", [Plan()], [7.0])
    assert all(near(done.after[name], done.left[0][name], 1e-6) for name in done.after)


def test_a_network_without_pairs_gets_no_core() -> None:
    with pytest.raises(ValueError, match="FedSB is a rule for pairs"):
        METHODS["fed-sb"](replace(SPEC, adapter=None))


# ---- RAVAN -----------------------------------------------------------------------------------------------------------


def test_every_head_is_averaged_over_those_who_trained_it() -> None:
    """And so are the heads' products: B_i·H_i·A_i by B_i·H_i·A_i."""
    strategy, weights = METHODS["ravan"](SPEC, SETTINGS), [10.0, 30.0, 5.0, 40.0]
    plans = [strategy.plan(strategy.context(1), node(i), SETTINGS.tiers[tier]) for i, tier in enumerate((0, 1, 1, 2))]
    assert [4 - len(plan.untrained) for plan in plans] == [4, 2, 2, 1]
    done = folded("ravan", plans, weights)
    every = [of_device(done, number, plan) for number, plan in enumerate(plans)]
    before = products(done.strategy, Plan(), done.before)
    for layer, found in enumerate(products(done.strategy, Plan(), done.after)):
        wanted = before[layer].clone()
        for head in range(1, 5):
            who = [number for number, plan in enumerate(plans) if head not in plan.untrained]
            total = sum(weights[number] for number in who)
            for number in who:
                one = {name: tensor.clone() for name, tensor in done.before.items()}
                one |= {name: value for name, value in done.left[number].items() if f".{head - 1}.core" in name}
                wanted += weights[number] / total * (products(done.strategy, Plan(), one)[layer] - before[layer])
        assert near(found, wanted)
    assert len({plan.untrained for plan in plans}) > 2
    assert all(near(one, other) for one, other in zip(every[0], of_device(done, 0, Plan()), strict=True))


def test_what_is_sent_is_the_scale_times_the_head() -> None:
    """Two steps of gradient descent on H and s, as the paper has them; the network is the same before and after."""
    network = replace(SPEC, base=base_store.hold(drawn_base(SPEC, 1)))
    strategy = METHODS["ravan"](network, SETTINGS)
    plan = Plan(untrained=(2, 3))
    draws = torch.Generator().manual_seed(4)
    shapes = strategy.runner.layout.shapes
    state = {name: torch.randn(shape, generator=draws) for name, shape in shapes.items()}
    x, y = torch.randn(8, 1, 4, 4, generator=draws), torch.randint(5, (8,), generator=draws)
    model = part_of(strategy.network, plan, state)
    begin_own(model)
    assert sorted({name.split(".")[-2] for name in own_tensors(model)}) == ["0", "3"]
    own, start = own_tensors(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cores = {name: (start[f"{name.removesuffix('scale')}core"].clone(), torch.ones(())) for name in own}
    sgd = SGD([*model.parameters(), *own.values()], Optimiser(0.1))
    for _ in range(2):
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        for name, (core, scale) in cores.items():
            gradients = model.get_parameter(f"{name.removesuffix('scale')}core").grad, own[name].grad
            assert gradients[0] is not None
            assert gradients[1] is not None
            cores[name] = core - 0.1 * gradients[0], scale - 0.1 * gradients[1]
        sgd.step()
        sgd.zero_grad()
    trained = model(x)
    fold_scales(model)
    assert torch.allclose(model(x), trained, atol=1e-4)
    for name, (core, scale) in cores.items():
        assert abs(float(scale) - 1) > 1e-4
        assert near(model.state_dict()[f"{name.removesuffix('scale')}core"], scale * core)
        assert own_tensors(model)[name].detach() == 1


@pytest.mark.parametrize("heads", [3, 8])
def test_heads_divide_the_rank(heads: int) -> None:
    with pytest.raises(SettingError, match="a divisor of 4"):
        METHODS["ravan"](SPEC, SETTINGS, heads=heads)


def test_a_plan_says_which_blocks_are_not_trained() -> None:
    strategy = METHODS["ravan"](SPEC, SETTINGS)
    plan = strategy.plan(strategy.context(1), node(3), SETTINGS.tiers[2])
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.holds_more
    assert plan.holding == Plan() == strategy.kept_plan(strategy.context(1), SETTINGS.tiers[2])
    held, trained = submodel(strategy.network, plan.holding), submodel(strategy.network, plan)
    assert len(held) - len(trained) == 3 * 2  # heads of two layers
    assert set(trained) < set(held)
    for wrong in ((0,), (5,)):
        with pytest.raises(ValueError, match="cannot be left out"):
            submodel(strategy.network, Plan(untrained=wrong))
