"""Low-rank pairs beside the linear layers of an ordinary module, of which only the graph is changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from models import base_store
from models.adapters.adapter import Adapter
from models.adapters.low_rank import paths_of_pairs, product
from models.adapters.own import own_tensors
from models.algebra.axes import heads
from models.algebra.plans import Plan
from models.networks.bases import drawn_base, first_state
from models.networks.build import initial_state, layout, part_of, submodel, without_adapter
from models.networks.complete import completed
from models.networks.merged import merged
from models.networks.spec import NetworkSpec
from models.randomness import torch_generator
from models.registry import following

SPEC = NetworkSpec("tests.models.foreign.nets:Attention", (1, 8, 8), 5, adapter=Adapter(rank=4, alpha=8.0))


@pytest.fixture(autouse=True)
def allowed() -> Iterator[None]:
    with following(["tests.*"]):
        yield


def test_ranks_of_an_ordinary_module_nest_and_merge() -> None:
    spec = completed(SPEC)
    alone = without_adapter(spec)
    spec = replace(spec, base=base_store.hold(drawn_base(spec, seed=3)))
    declared, draws = layout(spec), torch_generator(1, 0, "server", "test")
    x = torch.randn(6, 1, 8, 8, generator=draws)
    assert sorted(pair.a for pair in declared.pairs) == [f"{one}.lora_A" for one in ("down", "gate", "out", "qkv")]
    assert set(declared.tensors) - set(declared.frozen) >= heads(layout(alone))
    untrained = part_of(spec, Plan(), first_state(spec, 3)).eval()
    assert torch.equal(untrained(x), part_of(alone, Plan(), first_state(alone, 3)).eval()(x))
    state = {n: t + 0.3 * torch.randn(t.shape, generator=draws) for n, t in initial_state(spec, draws).items()}
    plan, zeroed = Plan(Fraction(1, 4)), {name: tensor.clone() for name, tensor in state.items()}
    for pair in declared.pairs:
        zeroed[pair.a][1:], zeroed[pair.b][:, 1:] = 0, 0
    part = part_of(spec, plan, state)
    assert {name for name, one in part.named_parameters() if one.requires_grad} == set(state)
    for training in (True, False):
        whole = part_of(spec, Plan(), zeroed).train(training)
        assert torch.allclose(part.train(training)(x), whole(x), atol=1e-6)
    assert not torch.allclose(part(x), untrained(x), atol=1e-2)
    ordinary, everything, tensors = merged(spec, plan, submodel(spec, plan).gather(state))
    assert torch.allclose(part_of(ordinary, everything, tensors).eval()(x), part(x), atol=1e-5)


@pytest.mark.parametrize(
    "adapter",
    [
        Adapter(rank=4, alpha=8.0, form="core", seed=1),
        Adapter(rank=4, alpha=8.0, form="heads", seed=1, heads=2),
        Adapter(rank=4, alpha=8.0, form="shared-a"),
    ],
    ids=lambda one: one.form,
)
def test_other_forms_of_an_adapter_compute_what_they_add_to_the_weights(adapter: Adapter) -> None:
    spec = completed(replace(SPEC, adapter=adapter))
    spec = replace(spec, base=base_store.hold(drawn_base(spec, seed=3)))
    draws = torch_generator(1, 0, "server", "test")
    state = {name: torch.randn(one.shape, generator=draws) for name, one in layout(spec).tensors.items()}
    x = torch.randn(6, 1, 8, 8, generator=draws)
    network = part_of(spec, Plan(), state)
    paths = paths_of_pairs(network)
    assert len(paths) == 4
    with torch.no_grad():
        for tensor in own_tensors(network).values():
            tensor.add_(torch.randn(tensor.shape, generator=draws))
    alone, plan, tensors = merged(spec, Plan(), state)
    for path in paths:  # with what a device has of its own
        tensors[f"{path}.weight"] = network.get_buffer(f"{path}.weight") + product(network.get_submodule(path))
    expected = part_of(alone, plan, tensors)
    for training in (True, False):
        found, wanted = network.train(training)(x), expected.train(training)(x)
        assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()
    if adapter.heads:
        some = part_of(spec, Plan(untrained=(2,)), state)
        assert set(some.state_dict()) < set(network.state_dict())
        assert torch.equal(some.eval()(x), part_of(spec, Plan(), state).eval()(x))


@pytest.mark.parametrize("form", ["pair", "core", "heads"])
def test_convolutions_of_an_ordinary_module_have_pairs_and_those_with_groups_have_none(form: str) -> None:
    adapter = Adapter(
        rank=4, alpha=8.0, targets=("linear", "convolution"), form=form, seed=1, heads=2 if form == "heads" else 0
    )
    spec = completed(NetworkSpec("tests.models.foreign.nets:Edge", (1, 8, 8), 10, norm="group", adapter=adapter))
    spec = replace(spec, base=base_store.hold(drawn_base(spec, seed=3)))
    draws = torch_generator(1, 0, "server", "test")
    state = {name: torch.randn(one.shape, generator=draws) for name, one in layout(spec).tensors.items()}
    network, x = part_of(spec, Plan(), state), torch.randn(6, 1, 8, 8, generator=draws)
    assert paths_of_pairs(network) == ["stem", "squeeze", "excite", "point", "hidden"]
    alone, plan, tensors = merged(spec, Plan(), state)
    expected, found = part_of(alone, plan, tensors).eval()(x), network.eval()(x)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    half = part_of(spec, Plan(Fraction(1, 2)), state)
    assert half.train()(x).shape == (6, 10)
