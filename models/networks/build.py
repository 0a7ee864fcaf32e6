"""From a spec to modules: the whole network, its declaration, its parts, and the state that training starts from."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from math import sqrt

import torch
from torch import Tensor, nn

from models.adapters.adapter import PAIR, SHARED_A, Adapter
from models.adapters.frozen import freeze, frozen_tensors
from models.adapters.low_rank import add_pairs, axes_with_ranks, first_a, names_of_pairs, weights_beside
from models.adapters.precision import can_be_lower, hold_lower, lowered
from models.algebra.axes import Along, Kind, Layout, heads
from models.algebra.declarations import layout_of
from models.algebra.plans import Plan
from models.algebra.plans import submodel as cut
from models.algebra.precisions import FLOAT32
from models.algebra.submodel import Submodel
from models.base_store import Part, base
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
    if NETWORKS[spec.name].initial is None and spec.adapter is None:
        _draw(network, generator)
        return network
    leading = tuple((name, tuple(range(size))) for name, size in (sizes or {}).items())
    part = cut(layout(spec), replace(plan, units=leading or plan.units))
    network.load_state_dict(part.gather(initial_state(spec, generator)))
    return network


def blank(spec: NetworkSpec, sizes: Mapping[str, int] | None = None, plan: Plan = WHOLE) -> nn.Module:
    """Build a network as `build` does, with weights of zero: for who loads a state next."""
    network = NETWORKS[spec.name]
    if plan.holds_more:
        held = blank(spec, sizes, plan.holding)
        freeze(held, submodel(spec, plan).__contains__)
        return held
    if spec.adapter is not None:
        return _adapted(spec, spec.adapter, sizes or {}, plan)
    if spec.bases:
        alone = replace(spec, bases=0)
        count = spec.bases if plan.bases is None else len(plan.bases)
        return BaseNets([blank(alone, sizes, plan) for _ in range(count)])
    return network.build(Builder(spec, network.axes(spec), sizes or {}, plan))


def without_adapter(spec: NetworkSpec) -> NetworkSpec:
    """The network that an adapter is added to, all of which is trained."""
    return replace(spec, adapter=None, base="")


def _adapted(spec: NetworkSpec, adapter: Adapter, sizes: Mapping[str, int], plan: Plan) -> nn.Module:
    """A network on its base, which is whole in width: what plans cut is the ranks."""
    alone, whole, registered = without_adapter(spec), Plan(depth=plan.depth), NETWORKS[spec.name]
    whole = replace(whole, own_exit=plan.own_exit, dropped=plan.dropped)
    adapter = replace(adapter, precision=plan.precision or adapter.precision)
    head = heads(layout(alone))
    if registered.prove is None:
        network = registered.build(Builder(alone, registered.axes(alone), sizes, whole))
        add_pairs(network, adapter, sizes, but=head.__contains__)
    else:  # it is a graph, which is changed before it can run
        network = registered.build(Builder(replace(spec, adapter=adapter), registered.axes(alone), sizes, whole))
    trained = head | names_of_pairs(network) | set(weights_beside(network).values() if adapter.merges else ())
    lower = can_be_lower(network, trained.__contains__) if adapter.precision != FLOAT32 else []
    held = None
    if spec.base and not any(one.is_meta for one in network.parameters()):
        held = Part(base(spec.base), _of_base(spec, sizes, whole) if adapter.cut else {})
    freeze(network, trained.__contains__, held, but={f"{path}.weight" for path in lower})
    for path in lower:
        name, make = f"{path}.weight", partial(lowered, precision=adapter.precision)
        weight = make(network.get_buffer(name)) if held is None else held.made(name, adapter.precision, make)
        hold_lower(network.get_submodule(path), weight)
    return network


def _of_base(spec: NetworkSpec, sizes: Mapping[str, int], plan: Plan) -> Submodel:
    """The blocks of a base whose widths have these sizes: always the first units."""
    alone = layout(without_adapter(spec))
    cut_axes = [name for name, axis in alone.axes.items() if axis.kind.cut and sizes.get(name, axis.size) < axis.size]
    return cut(alone, replace(plan, units=tuple((name, tuple(range(sizes[name]))) for name in cut_axes)))


@lru_cache(maxsize=64)
def layout(spec: NetworkSpec) -> Layout:
    """Collect the declaration of a completed spec's whole state."""
    if spec.bases:
        return joined_layout(layout(replace(spec, bases=0)), spec.bases)
    if spec.adapter is not None:
        return _adapted_layout(spec, spec.adapter)
    with torch.device("meta"):
        network = layout_of(blank(spec), NETWORKS[spec.name].axes(spec))
    return layout_with_copies(network, spec.private, _variants(spec))


@lru_cache(maxsize=64)
def own_layout(spec: NetworkSpec) -> Layout:
    """Collect the declaration of what every device keeps to itself of a completed spec's network."""
    if spec.adapter is None or spec.adapter.form != SHARED_A:
        return Layout({}, {})
    whole = layout(replace(spec, adapter=replace(spec.adapter, form=PAIR)))
    return Layout(whole.axes, {pair.b: whole.tensors[pair.b] for pair in whole.pairs})


def _adapted_layout(spec: NetworkSpec, adapter: Adapter) -> Layout:
    alone = layout(without_adapter(spec))
    with torch.device("meta"):
        network = blank(spec)
    found = layout_of(network, axes_with_ranks(alone.axes, network, adapter))
    frozen = {name: tensor for name, tensor in alone.tensors.items() if name not in found.tensors}
    return replace(found, frozen=frozen, beside=weights_beside(network) if adapter.merges else {})


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
    held = plan.frozen, plan.fixed, plan.untrained, plan.precision
    return spec, plan.rate, plan.depth, plan.own_exit, plan.dropped, held, bases, sizes


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
    load_part(network, spec, plan, submodel(spec, plan.holding).gather(state))
    return network


def load_part(network: nn.Module, spec: NetworkSpec, plan: Plan, held: Mapping[str, Tensor]) -> None:
    """Copy what is held of a global state into a part's network, trained or not.

    Args:
        network: of the part.
        spec: of the full network.
        plan: the part.
        held: tensors of `plan.holding`'s submodel.
    """
    network.load_state_dict({name: held[name] for name in submodel(spec, plan)})
    load_frozen(network, plan, held)


@torch.no_grad()
def load_frozen(network: nn.Module, plan: Plan, held: Mapping[str, Tensor]) -> None:
    """Copy the tensors that are held and not trained into a part's network; a base stays as it is."""
    if plan.holds_more:
        for name, tensor in frozen_tensors(network).items():
            if name in held:
                tensor.copy_(held[name])


def initial_state(spec: NetworkSpec, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw the initial global state: Kaiming-uniform weights as PyTorch's layers have, from our own generator.

    Tensors of two or more dimensions are drawn from U(-b, b), b = 1/sqrt(fan_in); biases of those layers likewise
    (fan_in of their weight); embeddings from N(0, 0.02²) unless the network says otherwise; norms start at weight 1,
    bias 0, statistics at mean 0 and variance 1. A network that is an ordinary module starts as its own code says. Of a
    pair of low-rank factors A is drawn as a linear layer's weight is, and B is zero (Hu et al., ICLR 2022, §4.1); what
    stands between two frozen factors is zero.
    """
    if spec.adapter is not None:
        return _with_pairs(initial_state(without_adapter(spec), generator), layout(spec), generator)
    if spec.bases:
        return joined_state([initial_state(replace(spec, bases=0), generator) for _ in range(spec.bases)])
    if initial := NETWORKS[spec.name].initial:
        state = initial(spec, generator)
    else:
        network = blank(spec)
        _draw(network, generator)
        state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    return state_with_copies(state, layout(_without_copies(spec)), spec.private, _variants(spec))


def _with_pairs(state: Mapping[str, Tensor], adapted: Layout, generator: torch.Generator) -> dict[str, Tensor]:
    """The first state of a network with pairs, from that of the network without."""
    found = {}
    for name, tensor in adapted.tensors.items():
        rows, columns = (*tensor.dims, None, None)[:2]
        if name in state:
            found[name] = state[name]
        elif isinstance(rows, Along) and rows != columns and adapted.axes[rows.axis].kind is Kind.RANK:  # it is an A
            found[name] = first_a(tensor.shape, generator)
        else:
            found[name] = torch.zeros(tensor.shape)
    return found


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
