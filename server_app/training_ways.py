"""How each tier's part is trained, as a run folder records it: what decides the bits of a result is written down."""

from __future__ import annotations

from protocol.training_way import why_loop
from strategies import FlowerStrategy

FUSED = "fused"


def training_ways(strategy: FlowerStrategy) -> dict[str, str]:
    """By tier "fused", or "loop" and why; on devices without CUDA.

    Args:
        strategy: of the run.
    """
    context, settings, found = strategy.context(1), strategy.settings, {}
    for tier in settings.tiers:
        why = why_loop(
            strategy.network,
            strategy.kept_plan(context, tier),
            settings.work,
            strategy.objective(context, tier).name,
            regularised=bool(settings.dynamic_alpha),
        )
        found[tier.name] = f"loop: {why}" if why else FUSED
    return found
