"""What a run says of a network whose axes were found: what stays whole and why, and what tiers really hold."""

from __future__ import annotations

from models.algebra.axes import Kind
from models.cost import cost_of
from models.networks.registry import NETWORKS
from server_app.tier_records import GLOBAL, kept_plans
from strategies import FlowerStrategy

_TENSORS, _REASONS = 3, 6  # that are named


def network_facts(strategy: FlowerStrategy) -> list[str]:
    """Lines for the user; none for a network that declares its axes."""
    spec = strategy.network
    prove = NETWORKS[spec.name].prove
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
