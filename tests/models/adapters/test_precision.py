"""Laws of bases that are held in fewer bits: how far off they are, what is trained on them, their size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from models import base_store
from models.adapters.adapter import Adapter, read_adapter
from models.adapters.frozen import frozen_tensors
from models.adapters.precision import frozen_values, held_linear, lower_weights, lowered, raised
from models.algebra.plans import Plan
from models.algebra.precisions import BFLOAT16, FLOAT32, INT8
from models.algebra.submodel import gather
from models.cost import training_bytes
from models.errors import SettingError
from models.networks.bases import BaseFile, drawn_base, first_state
from models.networks.build import build_part, initial_state, part_of, shape_of, submodel
from models.networks.complete import completed
from models.networks.merged import merged
from models.networks.spec import NetworkSpec
from models.randomness import torch_generator
from models.registry import following
from strategies import Settings, parse_ranks, parse_tiers
from strategies.methods.heterofl import HeteroFL
from tests.models.adapters.test_adapters import SPECS, inputs_of

FOREIGN = NetworkSpec("tests.models.foreign.nets:Attention", (1, 8, 8), 5, adapter=Adapter(rank=4, alpha=8.0))
EVERY = SPECS | {"foreign": FOREIGN}
LOWER = [BFLOAT16, INT8]


@pytest.fixture(autouse=True)
def allowed() -> Iterator[None]:
    with following(["tests.*"]):
        yield


def based(name: str, precision: str = FLOAT32) -> tuple[NetworkSpec, dict[str, Tensor]]:
    """A small network on a base, and a state of it in which B is not zero."""
    spec = completed(EVERY[name])
    spec = replace(spec, base=base_store.hold(drawn_base(spec, seed=3)))
    assert spec.adapter is not None
    state, draws = initial_state(spec, torch_generator(0, 0, "server", "test")), torch_generator(1, 0, "server", "test")
    spec = replace(spec, adapter=replace(spec.adapter, precision=precision))
    return spec, {n: t + 0.3 * torch.randn(t.shape, generator=draws) for n, t in state.items()}


@given(st.integers(0, 2**32), st.sampled_from([1e-20, 1e-3, 1.0, 1e20]), st.integers(1, 9), st.integers(1, 40))
def test_no_coordinate_is_off_by_more_than_half_a_step(seed: int, size: float, rows: int, columns: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    weight = size * torch.randn(rows, columns, generator=draws) ** 3
    weight[0] *= torch.rand(columns, generator=draws) < 0.5
    codes, scale = lowered(weight, INT8)
    assert codes.dtype == torch.int8
    step = weight.double().abs().amax(1, keepdim=True) / 127
    assert bool(((raised(codes, scale).double() - weight.double()).abs() <= 0.5001 * step + 1e-30).all())
    nearest = raised(*lowered(weight, BFLOAT16))
    assert bool(((nearest - weight).abs() <= weight.abs() / 256 + 1e-38).all())


def test_the_bits_depend_on_the_values_alone() -> None:
    weight = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    for precision in LOWER:
        one, other = lowered(weight, precision), lowered(weight.T.contiguous().T, precision)
        assert all(torch.equal(*both) for both in zip(one, other, strict=True))
    codes, scale = lowered(torch.zeros(2, 3), INT8)
    assert torch.equal(raised(codes, scale), torch.zeros(2, 3))


@pytest.mark.parametrize("precision", LOWER)
def test_a_layer_computes_with_what_it_holds_and_keeps_nothing_else(precision: str) -> None:
    draws = torch.Generator().manual_seed(2)
    weight, bias = torch.randn(6, 5, generator=draws), torch.randn(6, generator=draws)
    held, kept = lowered(weight, precision), list[Tensor]()
    x = torch.randn(3, 2, 5, generator=draws).requires_grad_()
    with saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):  # type: ignore[func-returns-value]
        out = held_linear(x, *held, bias)
    assert [id(one) for one in kept] == [id(one) for one in held]
    (found,) = torch.autograd.grad(out.square().sum(), x)
    plain = F.linear(x, raised(*held), bias)
    assert torch.equal(out, plain)
    assert torch.allclose(found, torch.autograd.grad(plain.square().sum(), x)[0], rtol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = held_linear(x, *held, bias)
    assert mixed.dtype == torch.bfloat16
    assert torch.autograd.grad(mixed.float().sum(), x)[0].dtype == torch.float32


@pytest.mark.parametrize("precision", LOWER)
@pytest.mark.parametrize("name", EVERY)
def test_it_is_the_network_on_the_base_that_is_computed_with(name: str, precision: str) -> None:
    """Outputs, gradients of what is trained, and what is exported."""
    spec, state = based(name, precision)
    plan, x = Plan(Fraction(1, 2)), inputs_of(spec)
    part = part_of(spec, plan, state)
    values = frozen_values(part)
    exact = part_of(replace(spec, adapter=EVERY[name].adapter), plan, state)
    assert values.keys() == frozen_tensors(exact).keys()
    lower = lower_weights(part)
    assert len(lower) >= {"mlp": 1, "vit": 8, "transformer": 8, "foreign": 4}[name]
    assert all(not torch.equal(values[one], frozen_tensors(exact)[one]) for one in lower)
    rounded = replace(spec, base=base_store.hold(values), adapter=EVERY[name].adapter)
    same = part_of(rounded, plan, state)
    for training in (True, False):
        assert torch.allclose(part.train(training)(x), same.train(training)(x), atol=1e-6)
    for network in (part, same):
        network.train()(x).square().sum().backward()
    assert {one for one, _ in part.named_parameters()} == submodel(spec, plan).keys()
    for one, other in zip(part.parameters(), same.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.allclose(one.grad, other.grad, rtol=1e-4, atol=1e-6)
    alone, whole, tensors = merged(spec, plan, gather(state, submodel(spec, plan)))
    assert torch.allclose(part_of(alone, whole, tensors).eval()(x), part.eval()(x), atol=1e-5)
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())


def test_a_plan_says_it_for_one_part_and_the_digest_stays() -> None:
    spec, _ = based("vit")
    plan = Plan(Fraction(1, 2), precision=INT8)
    assert Plan.from_json(plan.to_json()) == plan
    assert NetworkSpec.from_json(based("vit", INT8)[0].to_json()) == based("vit", INT8)[0]
    assert shape_of(spec, plan) != shape_of(spec, Plan(Fraction(1, 2)))
    assert lower_weights(build_part(spec, plan))
    assert not lower_weights(build_part(based("vit", INT8)[0], Plan(precision=FLOAT32)))
    assert based("vit", INT8)[0].base == spec.base
    for wrong in ("int4", "INT8", 8):
        with pytest.raises(ValueError, match="allowed is float32, bfloat16, int8"):
            Plan.from_json(f'{{"precision": "{wrong}"}}')
        with pytest.raises(ValueError, match="precision"):
            Adapter(rank=4, precision=str(wrong))


def test_it_takes_a_quarter_of_the_bytes_and_is_held_once(tmp_path: Path) -> None:
    """Of a base that stays in its file a device has no float32 of what it holds in fewer bits."""
    spec = completed(replace(SPECS["vit"], widths=(64, 128)))
    tensors = drawn_base(spec, seed=4)
    save_file(tensors, tmp_path / "base.safetensors")
    spec = replace(spec, base=base_store.hold(BaseFile(tmp_path / "base.safetensors", spec)))
    sizes = {}
    for precision in (FLOAT32, BFLOAT16, INT8):
        one, other = (build_part(spec, Plan(precision=precision)) for _ in range(2))
        sizes[precision] = sum(tensor.nbytes for tensor in frozen_tensors(one).values())
        for name, tensor in frozen_tensors(one).items():
            assert tensor.data_ptr() == frozen_tensors(other)[name].data_ptr()
    weights = [tensor.numel() for name, tensor in tensors.items() if name in lower_weights(one)]
    rows = sum(len(held.codes) for held in lower_weights(one).values())
    assert sizes[FLOAT32] - sizes[INT8] == 3 * sum(weights) - 4 * rows
    assert sizes[INT8] < 0.31 * sizes[FLOAT32] < sizes[BFLOAT16] < 0.55 * sizes[FLOAT32]
    base_store._known.clear()
    base_store.hold(BaseFile(tmp_path / "base.safetensors", spec))
    network = build_part(spec, Plan(precision=INT8))
    held = base_store.base(spec.base)
    assert held._held.keys() == tensors.keys() - lower_weights(network).keys()
    saved = training_bytes(spec, Plan(), 2) - training_bytes(spec, Plan(precision=INT8), 2)
    assert saved == sizes[FLOAT32] - sizes[INT8] - 4 * max(weights)  # one of them is float32 at a time


def test_a_file_that_changes_while_it_is_in_use_is_not_believed(tmp_path: Path) -> None:
    spec, file = completed(SPECS["mlp"]), tmp_path / "base.safetensors"
    save_file(drawn_base(spec, seed=5), file)
    spec = replace(spec, base=base_store.hold(BaseFile(file, spec)))
    save_file(drawn_base(spec, seed=6) | {"more": torch.zeros(3)}, file)
    with pytest.raises(ValueError, match="has changed"):
        build_part(spec, Plan())
    assert not base_store.holds(spec.base)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (NetworkSpec("gru", (5,), 3, vocabulary=11, widths=(4, 6), adapter=Adapter(rank=0)), "without calling"),
        (NetworkSpec("cnn", (1, 8, 8), 3, norm="group", adapter=Adapter(rank=0)), "no linear layers"),
    ],
    ids=["gru", "cnn"],
)
def test_what_cannot_be_held_in_fewer_bits_is_refused(network: NetworkSpec, said: str) -> None:
    assert network.adapter is not None
    with pytest.raises(SettingError, match=said):
        completed(replace(network, adapter=replace(network.adapter, precision=INT8)))
    with pytest.raises(SettingError, match=said):
        HeteroFL(network, Settings(tiers=parse_ranks("a:1, b:1 int8", 0)))


def test_without_an_adapter_it_is_refused() -> None:
    with pytest.raises(SettingError, match="base-precision"):
        read_adapter("", 16.0, "linear", precision=INT8)
    with pytest.raises(SettingError, match="tiers"):
        parse_tiers("a:1, b:1/2 int8")


def test_tiers_say_it_after_their_rank() -> None:
    tiers = parse_ranks("d:2@3 int8, a:16, b: 8 bfloat16, c:8", 16)
    assert [(one.name, one.depth, one.precision) for one in tiers] == [
        ("a", None, ""),
        ("b", None, BFLOAT16),
        ("c", None, ""),
        ("d", 3, INT8),
    ]
    assert [str(one) for one in tiers[1:]] == ["b:1/2 bfloat16", "c:1/2", "d:1/8@3 int8"]
    assert [one.precision for one in parse_ranks("16, 4 int8", 16)] == ["", INT8]
    for wrong in ("a:16 int4", "a:int8", "a:16 int8 int8"):
        with pytest.raises(SettingError, match="tiers"):
            parse_ranks(wrong, 16)


def test_ordered_dropout_draws_ranks_on_it() -> None:
    from client_app.objectives.ordered_dropout import narrower

    for name in ("vit", "foreign"):
        spec, state = based(name, INT8)
        x, plan, rate = inputs_of(spec), Plan(), Fraction(1, 4)
        part = part_of(spec, Plan(rate), state)
        found = narrower(part_of(spec, plan, state), spec, plan, rate)(x)
        assert torch.allclose(found, part(x), atol=1e-6)
        assert first_state(spec, 1).keys() == state.keys()
