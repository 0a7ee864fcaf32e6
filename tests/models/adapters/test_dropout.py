"""Dropout in front of A: what it computes, that only who trains has it, and that runs repeat themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from client_app.objectives.ordered_dropout import narrower
from models import NetworkSpec, base_store
from models.adapters.adapter import Adapter, read_adapter
from models.adapters.dropout import DROPOUT, Dropout, draws_of, dropping
from models.adapters.low_rank import FACTOR, A, B, paths_of_pairs
from models.algebra.plans import Plan
from models.errors import SettingError
from models.networks.bases import drawn_base
from models.networks.build import layout, part_of
from models.networks.complete import completed
from models.randomness import torch_generator
from models.registry import following
from tests.support import Player

ADAPTER = Adapter(rank=4, alpha=8.0, dropout=0.5)
OURS = NetworkSpec("mlp", (1, 8, 8), 5, widths=(9, 7), norm="none", adapter=ADAPTER)
FOREIGN = NetworkSpec("tests.models.foreign.nets:Attention", (1, 8, 8), 5, adapter=ADAPTER)


@pytest.fixture(autouse=True)
def allowed() -> Iterator[None]:
    with following(["tests.*"]):
        yield


def network_of(spec: NetworkSpec, plan: Plan = Plan()) -> torch.nn.Module:  # noqa: B008 (it is frozen)
    spec = completed(spec)
    spec = replace(spec, base=base_store.hold(drawn_base(spec, 1)))
    draws = torch.Generator().manual_seed(2)
    state = {name: torch.randn(tensor.shape, generator=draws) for name, tensor in layout(spec).tensors.items()}
    return part_of(spec, plan, state).train()


def x() -> Tensor:
    return torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(5))


def test_half_of_the_inputs_are_left_out_and_the_mean_stays() -> None:
    layer, inputs = Dropout(0.25), torch.ones(400, 50)
    assert layer(inputs) is inputs
    with dropping(layer, torch_generator(1, 2, 3, "test")):
        found = layer(inputs)
    assert set(found.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert abs(float((found == 0).float().mean()) - 0.25) < 0.02
    assert abs(float(found.mean()) - 1) < 0.02
    assert draws_of(layer) is None


@pytest.mark.parametrize("spec", [OURS, FOREIGN], ids=["ours", "ordinary module"])
def test_only_who_trains_has_it(spec: NetworkSpec) -> None:
    network, plain = network_of(spec), network_of(replace(spec, adapter=replace(ADAPTER, dropout=0.0)))
    assert torch.equal(network(x()), plain(x()))  # in training mode, without draws
    with dropping(network, torch_generator(1, 2, 3, "test")):
        first, second = network(x()), network(x())
    with dropping(network, torch_generator(1, 2, 3, "test")):
        again = network(x())
    assert torch.equal(first, again)
    assert not torch.allclose(first, second, atol=1e-2)
    assert not torch.allclose(first, plain(x()), atol=1e-2)


def test_it_is_in_front_of_a_and_of_nothing_else() -> None:
    network = network_of(OURS)
    layer = network.get_submodule(paths_of_pairs(network)[0])
    assert isinstance(layer, torch.nn.Linear)
    inputs = x().flatten(1)
    with dropping(network, torch_generator(1, 2, 3, "test")):
        found = layer(inputs)
    mask = torch.rand(inputs.shape, generator=torch_generator(1, 2, 3, "test")) >= 0.5
    product = getattr(layer, FACTOR) * (inputs * mask / 0.5) @ getattr(layer, A).T @ getattr(layer, B).T
    assert torch.allclose(found, inputs @ layer.weight.T + layer.bias + product, atol=1e-4)


def test_the_narrower_passes_of_ordered_dropout_have_it_too() -> None:
    spec = completed(OURS)
    spec = replace(spec, base=base_store.hold(drawn_base(spec, 1)))
    module = network_of(OURS)
    half = narrower(module, spec, Plan(), Fraction(1, 2))
    plain = half(x())
    with dropping(module, torch_generator(1, 2, 3, "test")):
        assert not torch.allclose(half(x()), plain, atol=1e-2)
    assert torch.equal(half(x()), plain)


def test_settings_and_the_wire() -> None:
    assert read_adapter("lora:8", 4.0, "linear", 0.1) == Adapter(rank=8, alpha=4.0, dropout=0.1)
    for adapter in ("", "head"):
        with pytest.raises(SettingError, match="adapter-dropout"):
            read_adapter(adapter, 4.0, "linear", 0.1)
    assert NetworkSpec.from_json(OURS.to_json()) == OURS
    assert "dropout" not in replace(OURS, adapter=replace(ADAPTER, dropout=0.0)).to_json()
    with pytest.raises(ValueError, match="dropout = 1"):
        Adapter(rank=4, dropout=1.0)
    assert any(DROPOUT in name for name, _ in network_of(OURS).named_modules())


def test_a_run_repeats_itself_and_is_resumed(play: Player) -> None:
    keys: dict[str, Any] = {"method": "prelort", "adapter_dropout": 0.3}
    whole, half = play(**keys, num_server_rounds=3), play(**keys, num_server_rounds=1)
    assert play(**keys, num_server_rounds=3, resume=str(half.path)).hash == whole.hash
    assert play(method="prelort", num_server_rounds=3).hash != whole.hash
