"""How each tier's part is trained, as a run folder records it: what decides the bits of a result is written down."""

from __future__ import annotations

from protocol.memory_format import channels_last
from protocol.training_way import steps_in_layers, why_loop
from strategies import FlowerStrategy
from strategies.round.parts import kept_part

FUSED = "fused"


def training_ways(strategy: FlowerStrategy) -> dict[str, str]:
    """By tier "fused", or "loop", why, and what is done there; on devices without CUDA.

    Args:
        strategy: of the run.
    """
    context, settings, found = strategy.context(1), strategy.settings, {}
    for tier in settings.tiers:
        plan = kept_part(strategy, context, tier)
        network, work, regularised = strategy.network, settings.work, bool(settings.dynamic_alpha)
        objective, rule = strategy.objective(context, tier).name, strategy.optimiser(context, tier)
        why = why_loop(network, plan, work, objective, regularised=regularised)
        steps = steps_in_layers(network, plan, work, objective, rule, regularised=regularised)
        stepped = "; wide layers step in the backward pass" if steps else ""
        last = "; channels last" if channels_last(network, plan, work) else ""
        without = "; in float32 on devices without bfloat16" if work.mixed_precision else ""
        found[tier.name] = f"loop: {why}{without}{last}{stepped}" if why else FUSED
    return found
