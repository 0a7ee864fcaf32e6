"""What a run says of its network.

Of one that is frozen in part: what is trained. Of one whose axes were found: what stays whole and why, and what tiers
really hold.
"""

from __future__ import annotations

from math import prod

from models.algebra.axes import Kind
from models.cost import cost_of
from models.networks.build import layout, submodel
from models.networks.registry import NETWORKS
from models.networks.spec import NetworkSpec
from server_app.tier_records import GLOBAL, kept_plans
from strategies import FlowerStrategy

_TENSORS, _REASONS = 3, 6  # that are named
_BYTES = 4  # of a float32


def network_facts(strategy: FlowerStrategy) -> list[str]:
    """Lines for the user; none for a network that declares its axes and all of which is trained."""
    spec = strategy.network
    prove = NETWORKS[spec.name].prove
    if spec.adapter is not None:
        return [_adapter_fact(spec, strategy)]
    if prove is None:
        return []
    found, proof = prove(spec)
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
    context = strategy.context(1)
    held = {name: cost_of(spec, plan).parameters for name, plan in kept_plans(strategy, context).items()}
    shares = ", ".join(
        f"{tier.name} ({tier.rate}) {held[tier.name] / held[GLOBAL]:.1%}" for tier in strategy.settings.tiers
    )
    return [*lines, f"  of its {held[GLOBAL]:,} parameters tiers hold: {shares}"]


def _adapter_fact(spec: NetworkSpec, strategy: FlowerStrategy) -> str:
    declared, context = layout(spec), strategy.context(1)
    frozen = _BYTES * sum(prod(tensor.shape) for tensor in declared.frozen.values())
    plans = kept_plans(strategy, context)
    held = ", ".join(
        f"{tier.name} {_BYTES * submodel(spec, plans[tier.name]).numel:,}" for tier in strategy.settings.tiers
    )
    pairs = f"{len(declared.pairs)} pairs and the head" if declared.pairs else "the head"
    return f"trained: {pairs}; bytes by tier: {held}; base: {frozen:,} bytes, {spec.base[:12]}, never sent"
