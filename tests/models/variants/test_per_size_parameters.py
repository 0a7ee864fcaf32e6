"""Tensors of which every submodel has a copy of its own: where the copies stand, and who touches them."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models import (
    Layout,
    NetworkSpec,
    PartialAverage,
    Plan,
    build_part,
    completed,
    flatten,
    initial_state,
    layout,
    submodel,
    torch_generator,
)
from models.algebra.plans import submodel as cut
from models.variants.per_size_parameters import PRIVATE
from tests.models.generators import RATES, assert_near, bits

NETWORKS = {
    "mlp": NetworkSpec("mlp", (1, 3, 4), 5, widths=(7, 6)),
    "cnn": NetworkSpec("cnn", (3, 8, 8), 5, widths=(4, 5, 6)),
    "resnet": NetworkSpec("resnet", (3, 8, 8), 5, widths=(4, 5, 6), blocks=(1, 2, 2), step_sizes=True),
    "resnet-post": NetworkSpec("resnet-post", (3, 8, 8), 5, widths=(4, 5), blocks=(3, 2), step_sizes=True),
    "resnet-flat": NetworkSpec("resnet-post", (3, 8, 8), 5, widths=(5, 5), blocks=(2, 2), step_sizes=True),
}


@lru_cache
def _alone(name: str, norm: str, exits: str) -> NetworkSpec:
    spec = completed(replace(NETWORKS[name], norm=norm, exits=exits))
    return replace(spec, rates=() if norm == "batch-per-width" else spec.rates)


@st.composite
def specs(draw: st.DrawFn) -> NetworkSpec:
    """A network with private tensors of one to four submodels, which differ in width, depth, blocks, or in all."""
    groups = tuple(sorted(draw(st.sets(st.sampled_from(PRIVATE), min_size=1)), key=PRIVATE.index))
    norms = ["static-batch", "group", "none", *(["batch-per-width"] if "norm" in groups else [])]
    name = draw(st.sampled_from(sorted(NETWORKS)))
    exits = "plain" if "stage" in groups else draw(st.sampled_from(("last", "plain")))
    alone = _alone(name, draw(st.sampled_from(norms)), exits)
    variants = draw(st.lists(_plans(layout(alone)), min_size=1, max_size=4, unique=True))
    return replace(alone, private=groups, variants=tuple(plan.to_json() for plan in variants))


@st.composite
def _plans(draw: st.DrawFn, declared: Layout) -> Plan:
    depth = draw(st.sampled_from([None, *sorted(declared.exits)]))
    dropped = draw(st.sets(st.sampled_from(sorted(declared.blocks)))) if declared.blocks else set[int]()
    return Plan(draw(st.sampled_from(RATES)), depth=depth, dropped=tuple(sorted(dropped)), own_exit=draw(st.booleans()))


def variants_of(spec: NetworkSpec) -> list[Plan]:
    return list(map(Plan.from_json, spec.variants))


def alone_of(spec: NetworkSpec) -> NetworkSpec:
    return replace(spec, private=(), variants=())


def state_of(spec: NetworkSpec) -> dict[str, Tensor]:
    return initial_state(spec, torch_generator(3, 0, "server", "initial state"))


def is_private(spec: NetworkSpec, plan: Plan, name: str) -> bool:
    """By what the groups say, from the declaration of the network without copies."""
    alone = layout(alone_of(spec))
    tensor = alone.tensors[name]
    last = plan.depth is not None and plan.depth < alone.depth and tensor.stage == plan.depth
    return tensor.role in spec.private or ("stage" in spec.private and last)


@given(specs())
def test_every_variant_is_the_network_that_is_built_for_it(spec: NetworkSpec) -> None:
    state = state_of(spec)
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: torch.Size(tensor.shape) for name, tensor in layout(spec).tensors.items()
    }
    assert list(state) == list(layout(spec).tensors)
    for plan in variants_of(spec):
        part, network = submodel(spec, plan), build_part(spec, plan)
        assert list(part) == list(network.state_dict())
        network.load_state_dict(part.gather(state))


@given(specs())
def test_copies_begin_as_what_the_submodel_held(spec: NetworkSpec) -> None:
    state, whole = state_of(spec), state_of(alone_of(spec))
    for plan in variants_of(spec):
        before = cut(layout(alone_of(spec)), plan).gather(whole)
        after = submodel(spec, plan).gather(state)
        assert list(after) == list(before)
        assert all(bits(after[name]) == bits(before[name]) for name in before)


@given(specs())
def test_every_place_of_the_state_has_one_name_and_copies_one_owner(spec: NetworkSpec) -> None:
    owners: dict[str, list[int]] = {}
    for index, plan in enumerate(variants_of(spec)):
        part = submodel(spec, plan)
        sources = [block.source for block in part.values()]
        assert len(set(sources)) == len(sources)
        for name, block in part.items():
            tensor = layout(spec).tensors[block.source]
            assert block.shape == tensor.shape
            assert (block.source != name) == is_private(spec, plan, name)
            if block.source != name:
                assert block.source not in layout(alone_of(spec)).tensors
                assert block.local_shape == block.shape
                assert tensor.buffer == layout(alone_of(spec)).tensors[name].buffer
                owners.setdefault(block.source, []).append(index)
    assert all(len(of) == 1 for of in owners.values())
    shared = {name for name, t in layout(alone_of(spec)).tensors.items() if t.role not in spec.private}
    assert set(layout(spec).tensors) == shared | set(owners)  # nothing that nobody could hold but shared tensors


@given(specs(), st.integers(0, 99))
def test_what_one_variant_learns_is_read_where_it_was_written(spec: NetworkSpec, seed: int) -> None:
    """Gathering and scattering are inverse; an average of one client is that client."""
    state, draws = state_of(spec), torch.Generator().manual_seed(seed)
    for plan in variants_of(spec):
        part = submodel(spec, plan)
        trained = {name: torch.randn(t.shape, generator=draws) for name, t in part.gather(state).items()}
        written = {name: tensor.clone() for name, tensor in state.items()}
        for name, block in part.items():
            block.scatter(trained[name], written[block.source])
        assert all(bits(tensor) == bits(trained[name]) for name, tensor in part.gather(written).items())
        average = PartialAverage(layout(spec))
        average.add(part, flatten(trained) - flatten(part.gather(state)))
        for name, tensor in average.finish(state).items():
            assert_near(tensor, written[name])
            untouched = written[name] == state[name]
            assert bits(tensor[untouched]) == bits(state[name][untouched])


@given(specs(), st.data())
def test_clients_of_other_variants_do_not_touch_a_copy(spec: NetworkSpec, data: st.DataObject) -> None:
    """Nobody of a variant: its copies keep their bits. Some: their mean, whatever the others sent."""
    state, variants = state_of(spec), variants_of(spec)
    replies = data.draw(st.lists(st.integers(0, len(variants) - 1), max_size=5))
    average = PartialAverage(layout(spec))
    sent: dict[int, list[dict[str, Tensor]]] = {}
    for seed, index in enumerate(replies):
        part = submodel(spec, variants[index])
        difference = torch.randn(part.numel, generator=torch.Generator().manual_seed(seed))
        average.add(part, difference)
        sent.setdefault(index, []).append(part.split(difference))
    new = average.finish(state)
    for index, plan in enumerate(variants):
        for name, block in submodel(spec, plan).items():
            if block.source == name:
                continue
            if index not in sent:
                assert bits(new[block.source]) == bits(state[block.source])
            else:
                mean = torch.stack([one[name] for one in sent[index]]).mean(0)
                assert_near(new[block.source], state[block.source] + mean)


@given(specs())
def test_the_spec_crosses_the_wire(spec: NetworkSpec) -> None:
    assert NetworkSpec.from_json(spec.to_json()) == spec


@given(specs(), st.sampled_from(RATES))
def test_a_plan_without_copies_is_refused(spec: NetworkSpec, rate: Fraction) -> None:
    if Plan(rate) not in variants_of(spec):
        with pytest.raises(ValueError, match="has no private tensors"):
            submodel(spec, Plan(rate))


def test_statistics_without_widths_are_cut_as_weights_are() -> None:
    """Ordinary batch norm: one mean and variance per channel that a submodel has."""
    spec = completed(NetworkSpec("cnn", (3, 8, 8), 5, widths=(4, 6), norm="batch-per-width", rates=()))
    half = submodel(spec, Plan(Fraction(1, 2)))
    names = [name for name in half if name.endswith("mean_0")]
    assert [half[name].local_shape for name in names] == [(2,), (3,)]
    assert not any(name.endswith("mean_1") for name in half)
    network = build_part(spec, Plan(Fraction(1, 2)))
    network.load_state_dict(half.gather(state_of(spec)))
    network.train()(torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
    assert network.state_dict()[names[0]].any()
