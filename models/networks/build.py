"""From a spec to modules: the whole network, its declaration, its parts, and the state that training starts from."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from functools import lru_cache
from math import sqrt

import torch
from torch import Tensor, nn

from models.algebra.axes import Layout, layout_of
from models.algebra.plans import Plan
from models.algebra.plans import submodel as cut
from models.algebra.submodel import Submodel
from models.networks.builder import Builder, Embedding
from models.networks.registry import NETWORKS
from models.networks.spec import NetworkSpec
from models.randomness import torch_generator
from models.variants.base_nets import BaseNets, joined_layout, joined_state, of_nets
from models.variants.per_size_parameters import layout_with_copies, state_with_copies, submodel_with_copies

WHOLE = Plan()


def build(
    spec: NetworkSpec,
    sizes: Mapping[str, int] | None = None,
    plan: Plan = WHOLE,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Build a network, full or at the sizes of a submodel, ready to be trained.

    Args:
        spec: a completed spec.
        sizes: kept units per width axis.
        plan: what those sizes stand for.
        generator: of the weights, drawn as `initial_state` says; None: one of its own, always the same.
    """
    network = blank(spec, sizes, plan)
    generator = torch_generator(0, 0, "server", "build") if generator is None else generator
    if NETWORKS[spec.name].initial is None:
        _draw(network, generator)
        return network
    leading = tuple((name, tuple(range(size))) for name, size in (sizes or {}).items())
    part = cut(layout(spec), replace(plan, units=leading or plan.units))
    network.load_state_dict(part.gather(initial_state(spec, generator)))
    return network


def blank(spec: NetworkSpec, sizes: Mapping[str, int] | None = None, plan: Plan = WHOLE) -> nn.Module:
    """Build a network as `build` does, with weights of zero: for who loads a state next."""
    network = NETWORKS[spec.name]
    if spec.bases:
        alone = replace(spec, bases=0)
        count = spec.bases if plan.bases is None else len(plan.bases)
        return BaseNets([blank(alone, sizes, plan) for _ in range(count)])
    return network.build(Builder(spec, network.axes(spec), sizes or {}, plan))


@lru_cache(maxsize=64)
def layout(spec: NetworkSpec) -> Layout:
    """Collect the declaration of a completed spec's whole state."""
    if spec.bases:
        return joined_layout(layout(replace(spec, bases=0)), spec.bases)
    with torch.device("meta"):
        network = layout_of(blank(spec), NETWORKS[spec.name].axes(spec))
    return layout_with_copies(network, spec.private, _variants(spec))


@lru_cache(maxsize=64)
def _variants(spec: NetworkSpec) -> tuple[Plan, ...]:
    return tuple(map(Plan.from_json, spec.variants))


@lru_cache(maxsize=128)
def submodel(spec: NetworkSpec, plan: Plan) -> Submodel:
    """Cut a completed spec's network by a plan (cached; see `models.algebra.plans.submodel`)."""
    if spec.bases:
        bases = tuple(range(spec.bases)) if plan.bases is None else plan.bases
        if max(bases) >= spec.bases or min(bases) < 0:
            raise ValueError(f"bases = {bases}: allowed is 0 to {spec.bases - 1}")
        return of_nets(submodel(replace(spec, bases=0), replace(plan, bases=None)), bases)
    if not spec.private:
        return cut(layout(spec), plan)
    alone = layout(_without_copies(spec))
    return submodel_with_copies(cut(alone, plan), alone, spec.private, _variants(spec), plan)


def _without_copies(spec: NetworkSpec) -> NetworkSpec:
    return replace(spec, private=(), variants=())


@lru_cache(maxsize=128)
def shape_of(spec: NetworkSpec, plan: Plan) -> Hashable:
    """What `build_part` depends on: plans of the same shape give the same network, whichever units they keep."""
    bases = None if plan.bases is None else len(plan.bases)
    sizes = tuple(sorted(submodel(spec, plan).sizes.items()))
    return spec, plan.rate, plan.depth, plan.own_exit, plan.dropped, bases, sizes


def build_part(spec: NetworkSpec, plan: Plan) -> nn.Module:
    """Build the network that a device with this plan holds, with weights of zero: for who loads a state next.

    Its state has the submodel's names and shapes.
    """
    return blank(spec, submodel(spec, plan).sizes, plan)


def part_of(spec: NetworkSpec, plan: Plan, state: Mapping[str, Tensor]) -> nn.Module:
    """The network that a device with this plan holds, with its part of a global state in it.

    Args:
        spec: a completed spec, such as a strategy's `network`.
        plan: such as a strategy's `kept_plan(context, tier)`.
        state: the global state by name; it is copied.

    Raises:
        KeyError, ValueError: the state is not this network's.
    """
    network = build_part(spec, plan)
    network.load_state_dict(submodel(spec, plan).gather(state))
    return network


def initial_state(spec: NetworkSpec, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw the initial global state: Kaiming-uniform weights as PyTorch's layers have, from our own generator.

    Tensors of two or more dimensions are drawn from U(-b, b), b = 1/sqrt(fan_in); biases of those layers likewise
    (fan_in of their weight); embeddings from N(0, 0.02²) unless the network says otherwise; norms start at weight 1,
    bias 0, statistics at mean 0 and variance 1. A network that is an ordinary module starts as its own code says.
    """
    if spec.bases:
        return joined_state([initial_state(replace(spec, bases=0), generator) for _ in range(spec.bases)])
    if initial := NETWORKS[spec.name].initial:
        state = initial(spec, generator)
    else:
        network = blank(spec)
        _draw(network, generator)
        state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    return state_with_copies(state, layout(_without_copies(spec)), spec.private, _variants(spec))


@torch.no_grad()
def _draw(network: nn.Module, generator: torch.Generator) -> None:
    """Give every layer its first weights."""
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            bound = 1 / sqrt(module.weight[0].numel())
            for parameter in module.parameters(recurse=False):
                parameter.uniform_(-bound, bound, generator=generator)
        elif isinstance(module, Embedding):
            module.weight.normal_(std=module.deviation, generator=generator)
