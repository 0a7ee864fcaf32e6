"""What a run says of its network.

Of one that is frozen in part: what is trained. Of one whose axes were found: what stays whole and why, and what tiers
really hold, which is said of rates for groups of axes, too.
"""

from __future__ import annotations

from math import prod

from models.adapters.low_rank import beside_base
from models.algebra.axes import Kind
from models.algebra.rates import groups_in
from models.cost import base_bytes, cost_of
from models.foreign.axes import Found
from models.foreign.check import Proof
from models.networks.build import layout, own_layout, submodel
from models.networks.registry import NETWORKS
from models.networks.spec import NetworkSpec
from server_app.tier_records import GLOBAL, kept_plans
from strategies import FlowerStrategy

_TENSORS, _REASONS = 3, 6  # that are named
_BYTES = 4  # of a float32


def network_facts(strategy: FlowerStrategy) -> list[str]:
    """Lines for the user; none for a network that declares its axes, is trained whole, and has one rate a tier."""
    spec = strategy.network
    if spec.adapter is not None:
        return [_adapter_fact(spec, strategy)]
    prove = NETWORKS[spec.name].prove
    if prove is not None:
        return [*_found(spec, *prove(spec)), *_held(strategy)]
    return _held(strategy) if any(groups_in(tier.rate) for tier in strategy.settings.tiers) else []


def _found(spec: NetworkSpec, found: Found, proof: Proof) -> list[str]:
    widths = [axis for axis in found.axes.values() if axis.kind is Kind.WIDTH]
    stages, whole = found.stages, found.whole
    depth = f"; {len(set(stages.blocks))} residual blocks, {stages.count} stages" if stages.blocks else ""
    error = max(proof.moved, proof.differs, proof.shortened)
    lines = [f"{spec.name}: {len(widths)} axes found{depth}; the proof's largest error is {error:.0e}"]
    for why, names in list(whole.items())[:_REASONS]:
        more = f" and {len(names) - _TENSORS} more" if len(names) > _TENSORS else ""
        lines.append(f"  not cut ({why}): {', '.join(names[:_TENSORS])}{more}")
    if len(whole) > _REASONS:
        lines.append(f"  and for {len(whole) - _REASONS} more reasons: flotilla inspect says which")
    return lines


def _held(strategy: FlowerStrategy) -> list[str]:
    """What the part of every tier is of the whole, counted, not reckoned from rates."""
    spec, tiers = strategy.network, strategy.settings.tiers
    plans = kept_plans(strategy, strategy.context(1))
    costs = {name: cost_of(spec, plan) for name, plan in plans.items()}
    whole = costs[GLOBAL]
    parameters = ", ".join(
        f"{one.name} ({one.rate}) {costs[one.name].parameters / whole.parameters:.1%}" for one in tiers
    )
    macs = ", ".join(f"{one.name} {costs[one.name].macs / whole.macs:.1%}" for one in tiers)
    sent = ", ".join(f"{one.name} {_BYTES * submodel(spec, plans[one.name]).numel / 1e6:.3f}" for one in tiers)
    return [
        f"  of its {whole.parameters:,} parameters tiers hold: {parameters}",
        f"  of its {whole.macs:,} multiply-accumulates they compute: {macs}",
        f"  one way they send, as float32 in MB: {sent}",
    ]


def _adapter_fact(spec: NetworkSpec, strategy: FlowerStrategy) -> str:
    declared, context = layout(spec), strategy.context(1)
    frozen = _BYTES * sum(prod(tensor.shape) for tensor in declared.frozen.values())
    plans = kept_plans(strategy, context)
    held = ", ".join(
        f"{tier.name} {_BYTES * submodel(spec, plans[tier.name]).numel:,}" for tier in strategy.settings.tiers
    )
    trained = [f"{len(declared.pairs)} pairs"] if declared.pairs else []
    if not trained and (others := beside_base(declared)):
        trained = [f"{len(others)} factors A, B on the devices" if own_layout(spec).tensors else f"{len(others)} cores"]
    told = " and ".join([*trained, "the head"])
    merged = sum(prod(declared.tensors[name].shape) for name in declared.beside.values())
    told += f", into weights of {_BYTES * merged:,} bytes that are sent down" if merged else ""
    bases = {tier.name: base_bytes(spec, plans[tier.name]) for tier in strategy.settings.tiers}
    smaller = ", ".join(f"{name} {size:,}" for name, size in bases.items() if size < frozen)
    smaller = f", of which tiers hold: {smaller}" if smaller else ""
    return f"trained: {told}; bytes by tier: {held}; base: {frozen:,} bytes{smaller}, {spec.base[:12]}, never sent"
