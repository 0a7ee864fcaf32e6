"""How each tier's part is trained, as a run folder records it: what decides the bits of a result is written down."""

from __future__ import annotations

from protocol.memory_format import channels_last
from protocol.training_way import why_loop
from strategies import FlowerStrategy
from strategies.round.parts import kept_part

FUSED = "fused"


def training_ways(strategy: FlowerStrategy) -> dict[str, str]:
    """By tier "fused", or "loop", why, and whether with channels innermost; on devices without CUDA.

    Args:
        strategy: of the run.
    """
    context, settings, found = strategy.context(1), strategy.settings, {}
    for tier in settings.tiers:
        plan = kept_part(strategy, context, tier)
        why = why_loop(
            strategy.network,
            plan,
            settings.work,
            strategy.objective(context, tier).name,
            regularised=bool(settings.dynamic_alpha),
        )
        last = "; channels last" if channels_last(strategy.network, plan, settings.work) else ""
        found[tier.name] = f"loop: {why}{last}" if why else FUSED
    return found
