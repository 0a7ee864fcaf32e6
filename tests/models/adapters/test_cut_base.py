"""Laws of parts that hold some of a base's widths: the first units, the same in every round."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from math import ceil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from client_app.objectives.ordered_dropout import narrower
from models import base_store
from models.adapters.adapter import Adapter
from models.adapters.frozen import frozen_tensors
from models.adapters.precision import frozen_values, lower_weights
from models.algebra.axes import Kind
from models.algebra.groups import RANK
from models.algebra.plans import Plan
from models.algebra.precisions import FLOAT32, INT8
from models.algebra.rates import Rate, rates_of, with_group, without_group
from models.algebra.submodel import gather
from models.cost import base_bytes, training_bytes
from models.errors import SettingError
from models.networks.bases import BaseFile, drawn_base, first_state
from models.networks.build import build_part, initial_state, layout, part_of, submodel, without_adapter
from models.networks.complete import completed
from models.networks.merged import merged
from models.networks.spec import NetworkSpec
from models.randomness import torch_generator
from models.registry import following
from strategies import METHODS, Settings, parse_ranks
from tests.models.adapters.test_adapters import SPECS, inputs_of
from tests.models.adapters.test_precision import FOREIGN

HALF = Fraction(1, 2)
EVERY = SPECS | {"foreign": FOREIGN}


@pytest.fixture(autouse=True)
def allowed() -> Iterator[None]:
    with following(["tests.*"]):
        yield


def based(name: str) -> tuple[NetworkSpec, dict[str, Tensor]]:
    """A small network whose base can be cut, and a state of it in which B is not zero."""
    adapter = EVERY[name].adapter
    assert adapter is not None
    spec = completed(replace(EVERY[name], adapter=replace(adapter, cut=True)))
    spec = replace(spec, base=base_store.hold(drawn_base(spec, seed=3)))
    state, draws = initial_state(spec, torch_generator(0, 0, "server", "test")), torch_generator(1, 0, "server", "test")
    return spec, {n: t + 0.3 * torch.randn(t.shape, generator=draws) for n, t in state.items()}


def rate_of(base: Rate, rank: Fraction) -> Rate:
    return with_group(base, RANK, rank)


@pytest.mark.parametrize("name", EVERY)
def test_where_b_is_zero_it_is_the_part_of_the_network(name: str) -> None:
    spec, _ = based(name)
    first, whole, x = first_state(without_adapter(spec), 3), first_state(spec, 3), inputs_of(spec)
    part = part_of(spec, Plan(rate_of(HALF, Fraction(1, 4))), whole).eval()
    alone = part_of(without_adapter(spec), Plan(HALF), first).eval()
    assert torch.equal(part(x), alone(x))
    assert not torch.allclose(part(x), part_of(without_adapter(spec), Plan(), first).eval()(x), atol=1e-4)
    held = {tensor: value for tensor, value in alone.state_dict().items() if tensor in frozen_tensors(part)}
    assert all(torch.equal(frozen_tensors(part)[tensor], value) for tensor, value in held.items())
    assert len(held) == len(frozen_tensors(part))


@pytest.mark.parametrize("precision", [FLOAT32, INT8])
@pytest.mark.parametrize("name", EVERY)
def test_merged_it_computes_the_same(name: str, precision: str) -> None:
    spec, state = based(name)
    plan, x = Plan(rate_of(HALF, HALF), precision=precision), inputs_of(spec)
    part = part_of(spec, plan, state)
    alone, whole, tensors = merged(spec, plan, gather(state, submodel(spec, plan)))
    assert whole.rate == HALF
    assert torch.allclose(part_of_tensors(alone, whole, tensors)(x), part.eval()(x), atol=1e-5)
    assert bool(lower_weights(part)) == (precision == INT8)
    part.train()(x).sum().backward()
    assert all(one.grad is not None and bool(one.grad.any()) for one in part.parameters())


def part_of_tensors(spec: NetworkSpec, plan: Plan, tensors: dict[str, Tensor]) -> torch.nn.Module:
    network = build_part(spec, plan)
    network.load_state_dict(tensors)
    return network.eval()


def test_pairs_have_the_rows_and_columns_that_are_held() -> None:
    spec, _ = based("mlp")  # 16 inputs, 10 and 6 units
    declared = layout(spec)
    assert {axis.kind for axis in declared.axes.values()} >= {Kind.BASE, Kind.RANK}
    assert RANK in declared.groups
    part = submodel(spec, Plan(rate_of(Fraction(1, 4), HALF)))
    first, second = declared.pairs
    assert [part[name].local_shape for name in (first.a, first.b)] == [(2, 16), (3, 2)]
    assert [part[name].local_shape for name in (second.a, second.b)] == [(2, 3), (2, 2)]
    moved = submodel(spec, Plan(rate_of(Fraction(1, 4), HALF), shift=3))
    assert moved[first.b].runs == (((0, 3),), ((3, 1), (0, 1)))  # ranks move, the base's units do not
    with pytest.raises(ValueError, match="not width axes"):
        submodel(spec, Plan(HALF, units=(("hidden1", (1, 2)),)))


@pytest.mark.parametrize("share", [Fraction(1, 4), HALF, Fraction(1)])
def test_what_is_counted_is_what_is_held(share: Fraction) -> None:
    spec, _ = based("vit")
    plan = Plan(rate_of(share, HALF))
    network = build_part(spec, plan)
    held = sum(tensor.nbytes for tensor in frozen_tensors(network).values())
    assert base_bytes(spec, plan) == held
    alone = submodel(without_adapter(spec), Plan(share))
    assert held == 4 * sum(alone[name].numel for name in layout(spec).frozen)
    if share < 1:
        assert training_bytes(spec, plan, 2) < training_bytes(spec, Plan(rate_of(Fraction(1), HALF)), 2)


def test_of_a_base_in_a_file_a_device_has_its_own_part_and_no_more(tmp_path: Path) -> None:
    spec, _ = based("vit")
    tensors = drawn_base(spec, seed=4)
    save_file(tensors, tmp_path / "base.safetensors")
    base_store._known.clear()
    spec = replace(spec, base=base_store.hold(BaseFile(tmp_path / "base.safetensors", spec)))
    plan = Plan(rate_of(HALF, HALF), precision=INT8)
    one, other = build_part(spec, plan), build_part(spec, plan)
    assert base_store.base(spec.base)._held == {}
    for name, tensor in frozen_tensors(one).items():
        assert tensor.data_ptr() == frozen_tensors(other)[name].data_ptr()
    cut = submodel(without_adapter(spec), Plan(HALF))
    for name, weight in lower_weights(one).items():  # rounded is what is held, with a scale of its own
        held = cut[name].gather(tensors[name])
        assert bool(((frozen_values(one)[name] - held).abs() <= 0.5001 * weight.scale).all())
        assert torch.allclose(weight.scale, held.abs().amax(1, keepdim=True) / 127)


@pytest.mark.parametrize("name", ["vit", "foreign"])
def test_ordered_dropout_draws_ranks_on_the_own_part(name: str) -> None:
    spec, state = based(name)
    x, plan = inputs_of(spec), Plan(rate_of(HALF, Fraction(1)))
    rate = rate_of(HALF, Fraction(1, 4))
    found = narrower(part_of(spec, plan, state), spec, plan, rate)(x)
    assert torch.allclose(found, part_of(spec, Plan(rate), state)(x), atol=1e-6)


def test_tiers_say_which_part_they_hold() -> None:
    tiers = parse_ranks("a:16, b:8, c:4@2 base=1/2 int8, d:2 mlp = 1/2, heads=1/4, e:2 base=1/2 mlp=1/4", 16)
    rates = [
        Fraction(1),
        rates_of(Fraction(1), {RANK: HALF}),
        rates_of(HALF, {RANK: Fraction(1, 4)}),
        rates_of(Fraction(1), {RANK: Fraction(1, 8), "mlp": HALF, "heads": Fraction(1, 4)}),
        rates_of(HALF, {RANK: Fraction(1, 8), "mlp": Fraction(1, 4)}),
    ]
    assert [tier.rate for tier in tiers] == rates
    assert (tiers[2].depth, tiers[2].precision) == (2, INT8)
    assert without_group(rates[3], RANK) == rates_of(Fraction(1), {"mlp": HALF, "heads": Fraction(1, 4)})
    for wrong in ("a:16 base=0", "a:16 rank=1/2", "a:16 base=1/2 base=1/4", "a:base=1/2", "a:16 base=2"):
        with pytest.raises(SettingError, match="tiers"):
            parse_ranks(wrong, 16)


@pytest.mark.parametrize(
    "method", ["flexlora", "hlora", "hetlora", "flora", "fedsa-lora", "fed-sb", "ravan", "depthfl", "fiarse"]
)
def test_methods_that_cannot_are_refused(method: str) -> None:
    spec = replace(SPECS["mlp"], adapter=Adapter(rank=4, cut=True))
    options = {"heads": 2} if method == "ravan" else {}
    with pytest.raises(SettingError):
        METHODS[method](spec, Settings(tiers=parse_ranks("a:4, b:2 base=1/2", 4)), **options)
    assert ceil(HALF) == 1


def test_statistics_per_width_and_groups_that_there_are_not_are_refused() -> None:
    spec = replace(SPECS["mlp"], adapter=Adapter(rank=4, cut=True))
    for tiers, norm in (("a:4, b:2 base=1/2", "batch-per-width"), ("a:4, b:2 other=1/2", "none")):
        with pytest.raises(SettingError, match="tiers"):
            METHODS["heterofl"](replace(spec, norm=norm), Settings(tiers=parse_ranks(tiers, 4)))
