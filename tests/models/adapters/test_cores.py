"""Cores between two frozen factors: what is drawn, what a part is of the whole, what travels."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from models import NetworkSpec, base_store
from models.adapters.adapter import CORE as FORM
from models.adapters.adapter import Adapter
from models.adapters.cores import CORE
from models.adapters.frozen import frozen_tensors
from models.adapters.low_rank import A, B, paths_of_pairs
from models.algebra.plans import Plan
from models.networks.bases import drawn_base
from models.networks.build import build_part, initial_state, layout, part_of, submodel
from models.networks.complete import completed
from models.networks.merged import merged
from models.randomness import torch_generator

RANK = 4
CORES = Adapter(rank=RANK, alpha=8.0, form=FORM, seed=3)
NETWORKS = [
    NetworkSpec("mlp", (1, 4, 4), 5, widths=(9, 7), norm="none"),
    NetworkSpec("vit", (1, 8, 8), 5, widths=(8, 8), blocks=(2,), heads=2),
]


def based(spec: NetworkSpec, adapter: Adapter = CORES) -> NetworkSpec:
    """On a base that this process holds."""
    whole = completed(replace(spec, adapter=adapter))
    return replace(whole, base=base_store.hold(drawn_base(whole, 1)))


def drawn(spec: NetworkSpec) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(2)
    return {name: torch.randn(tensor.shape, generator=draws) for name, tensor in layout(spec).tensors.items()}


def inputs() -> Tensor:
    return torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("network", NETWORKS, ids=lambda one: one.name)
def test_what_is_trained_is_a_core_a_layer_and_the_head(network: NetworkSpec) -> None:
    spec = based(network)
    whole, pairs = layout(spec), layout(replace(spec, adapter=replace(CORES, form="pair")))
    cores = [name for name in whole.tensors if name.endswith(CORE)]
    assert len(cores) == len(pairs.pairs) > 1
    assert all(whole.tensors[name].shape == (RANK, RANK) for name in cores)
    assert not whole.pairs
    assert set(whole.frozen) == set(pairs.frozen)  # the base is that of pairs: factors are in no base
    start = initial_state(spec, torch_generator(1, 0, "server", "initial state"))
    assert not any(start[name].any() for name in cores)
    part = submodel(spec, Plan(Fraction(1, 2)))
    assert sum(part[name].numel for name in cores) == len(cores) * (RANK // 2) ** 2


def test_factors_are_orthonormal_drawn_and_nested() -> None:
    spec = based(NETWORKS[0])
    whole, part = build_part(spec, Plan()), build_part(spec, Plan(Fraction(1, 2)))
    other = build_part(replace(spec, adapter=replace(CORES, seed=4)), Plan())
    for path in paths_of_pairs(whole):
        a, b = frozen_tensors(whole)[f"{path}.{A}"], frozen_tensors(whole)[f"{path}.{B}"]
        assert torch.allclose(a @ a.T, torch.eye(RANK), atol=1e-5)
        assert torch.allclose(b.T @ b, torch.eye(RANK), atol=1e-5)
        assert torch.equal(frozen_tensors(part)[f"{path}.{A}"], a[:2])
        assert torch.equal(frozen_tensors(part)[f"{path}.{B}"], b[:, :2])
        assert not torch.allclose(frozen_tensors(other)[f"{path}.{A}"], a, atol=0.1)
        assert torch.equal(a, (a * 2**20).round() / 2**20)  # which absorbs how machines add up
    first, second = paths_of_pairs(whole)[:2]
    assert not torch.allclose(  # every layer has its own
        frozen_tensors(whole)[f"{first}.{B}"][:7], frozen_tensors(whole)[f"{second}.{B}"][:7], atol=0.1
    )


def test_a_rank_beyond_a_layers_smaller_side_has_nothing_there() -> None:
    spec = based(NETWORKS[0], replace(CORES, rank=9))
    network = build_part(spec, Plan())
    for path in paths_of_pairs(network):
        b = frozen_tensors(network)[f"{path}.{B}"]
        there = min(9, len(b))
        assert torch.allclose(b[:, :there].T @ b[:, :there], torch.eye(there), atol=1e-5)
        assert not b[:, there:].any()


@pytest.mark.parametrize("network", NETWORKS, ids=lambda one: one.name)
def test_a_part_is_the_whole_with_the_rest_of_its_cores_at_zero(network: NetworkSpec) -> None:
    spec = based(network)
    state, plan = drawn(spec), Plan(Fraction(1, 2))
    x = inputs()[..., :4, :4] if network.name == "mlp" else inputs()
    small = part_of(spec, plan, state).eval()(x)
    for name, tensor in state.items():
        if name.endswith(CORE):
            tensor[2:] = 0.0
            tensor[:, 2:] = 0.0
    whole = part_of(spec, Plan(), state).eval()
    assert torch.allclose(whole(x), small, atol=1e-5)
    alone, at, tensors = merged(spec, plan, submodel(spec, plan).gather(state))  # and as an ordinary network
    assert torch.allclose(part_of(alone, at, tensors).eval()(x), small, atol=1e-4)


def test_a_layer_computes_what_the_formula_says() -> None:
    spec = based(NETWORKS[0])
    network = part_of(spec, Plan(), drawn(spec))
    layer = network.get_submodule(paths_of_pairs(network)[0])
    assert isinstance(layer, torch.nn.Linear)
    x = torch.randn(3, layer.in_features)
    weight = layer.weight + 2.0 * getattr(layer, B) @ getattr(layer, CORE) @ getattr(layer, A)  # 8/4 in front
    assert torch.allclose(layer(x), x @ weight.T + layer.bias, atol=1e-5)


def test_the_form_crosses_the_wire_and_pairs_say_what_they_always_said() -> None:
    spec = NetworkSpec("mlp", (1, 4, 4), 5, adapter=CORES)
    assert NetworkSpec.from_json(spec.to_json()) == spec
    assert '"form"' not in replace(spec, adapter=Adapter(rank=4)).to_json()


@pytest.mark.parametrize("wrong", [{"form": "cube"}, {"form": 3}, {"seed": "0"}, {"seed": 1.5}])
def test_other_forms_and_seeds_are_refused(wrong: dict[str, object]) -> None:
    told = {"rank": 4, "form": FORM} | wrong
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Adapter(**told)  # type: ignore[arg-type]
