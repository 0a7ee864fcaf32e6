"""How each tier's part is trained, as a run folder records it: what decides the bits of a result is written down."""

from __future__ import annotations

from dataclasses import replace

from models.algebra.plans import Plan
from protocol import Hello
from protocol.memory_format import channels_last
from protocol.training_way import steps_in_layers, why_loop
from strategies import FlowerStrategy
from strategies.context import RoundContext
from strategies.exchange.assignment import Participant
from strategies.exchange.node import Node
from strategies.round.assignments import parts_of_round
from strategies.tiers.tier import Tier

FUSED = "fused"
# Methods of stages train other parts later. The same rounds are looked at however many a run has, so that one which
# goes on for more of them still says the same.
_ROUNDS = [2**i for i in range(21)]


def training_ways(strategy: FlowerStrategy) -> dict[str, str]:
    """By tier "fused", or "loop", why, and what is done there; on devices without CUDA.

    Where a tier is trained in several ways, one after the other, they stand in that order with "; later" between them.

    Args:
        strategy: of the run.
    """
    first, tiers = strategy.context(1), strategy.settings.tiers
    nodes = [Node(i, Hello(node=i, examples=1)) for i in range(len(tiers))]
    parts: list[dict[Plan, RoundContext]] = [{} for _ in tiers]
    for number in _ROUNDS:
        context, pairs = first.at(number), zip(nodes, tiers, strict=True)
        asked = [Participant(node=node, tier=tier, round_number=number) for node, tier in pairs]
        plans, _ = parts_of_round(strategy, context, strategy.initial_values(), asked)
        for plan, seen in zip(plans, parts, strict=True):
            seen.setdefault(_shape(plan), context)
    ways = [
        dict.fromkeys(_way(strategy, context, tier, plan) for plan, context in seen.items())
        for tier, seen in zip(tiers, parts, strict=True)
    ]
    return {tier.name: "; later ".join(way) for tier, way in zip(tiers, ways, strict=True)}


def _shape(plan: Plan) -> Plan:
    """A plan of the same sizes: which units and nets they are is drawn, and the same to whoever trains them."""
    return replace(plan, shift=0, units=(), bases=None if plan.bases is None else tuple(range(len(plan.bases))))


def _way(strategy: FlowerStrategy, context: RoundContext, tier: Tier, plan: Plan) -> str:
    """How a part is trained in a round."""
    settings = strategy.settings
    network, work, regularised = strategy.network, settings.work, bool(settings.dynamic_alpha)
    objective, rule = strategy.objective(context, tier).name, strategy.optimiser(context, tier)
    why = why_loop(network, plan, work, objective, regularised=regularised)
    steps = steps_in_layers(network, plan, work, objective, rule, regularised=regularised)
    stepped = "; wide layers step in the backward pass" if steps else ""
    last = "; channels last" if channels_last(network, plan, work) else ""
    without = "; in float32 on devices without bfloat16" if work.mixed_precision else ""
    return f"loop: {why}{without}{last}{stepped}" if why else FUSED
