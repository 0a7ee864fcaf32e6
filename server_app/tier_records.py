"""What evaluation used in a round, as a run folder keeps it, so that each tier's network can be made from it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.serverapp import Grid
from torch import Tensor

from data import InputFacts
from models.algebra.plans import Plan
from models.cost import cost_of
from server_app.folder.tiers_file import MOMENTS, TierRecords
from strategies import FlowerStrategy, Tier
from strategies.context import RoundContext
from strategies.round.parts import kept_part

GLOBAL = "global"  # the network that the method trains altogether, in tables of tiers


def evaluated_tiers(strategy: FlowerStrategy, context: RoundContext) -> list[Tier]:
    """Every tier of a run, and the network as a whole."""
    return [*strategy.settings.tiers, Tier(GLOBAL, strategy.global_rate(context))]


def kept_plans(strategy: FlowerStrategy, context: RoundContext) -> dict[str, Plan]:
    """Which part of the state after a round each tier keeps, by its name."""
    return {tier.name: kept_part(strategy, context, tier) for tier in evaluated_tiers(strategy, context)}


@dataclass(frozen=True)
class Moments:
    """The moments of static batch norm in a round; none where no norm needs them, or the round was not evaluated.

    Attributes:
        round: its number.
        speakers: tier → whose moments it was evaluated with; tiers that keep the same part share them.
        pooled: those by name, float64.
    """

    round: int = 0
    speakers: Mapping[str, str] = field(default_factory=dict)
    pooled: Mapping[str, Tensor] = field(default_factory=dict)

    def of(self, tier: str) -> Tensor | None:
        """Those that a tier was evaluated with."""
        return self.pooled.get(self.speakers.get(tier, tier))

    def checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As a checkpoint holds them: tensors "moments/<tier>", and JSON."""
        tensors = {MOMENTS + name: tensor for name, tensor in self.pooled.items()}
        return tensors, {"round": self.round, "speakers": dict(self.speakers)}

    @staticmethod
    def of_checkpoint(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Moments:
        """Take up a `checkpoint`; tensors of others are passed over."""
        pooled = {name.removeprefix(MOMENTS): one for name, one in tensors.items() if name.startswith(MOMENTS)}
        return Moments(int(values["round"]), dict(values["speakers"]), pooled)


def cluster_moments(strategy: FlowerStrategy, grid: Grid, number: int, wanted: Sequence[Tier]) -> dict[str, Tensor]:
    """Moments of the clusters beside the main one, by "cluster<number>/<tier>", pooled over their own nodes."""
    clusters = strategy.runner.pieces.clusters
    return {
        f"{clusters.saved_name(cluster)}{tier}": moments
        for cluster in clusters.states
        if cluster != clusters.main and clusters.sizes().get(cluster)
        for tier, moments in strategy.runner.statistics(grid, number, wanted, cluster=cluster).items()
    }


def tier_records(
    strategy: FlowerStrategy, number: int, *, inputs: InputFacts, noise_share: float, moments: Moments
) -> TierRecords:
    """What evaluation used in a round.

    Args:
        strategy: after that round.
        number: of the round.
        inputs: what inputs and labels are.
        noise_share: share of the noise norms, where norms are dual.
        moments: of that round; the global network and all tiers can be made again only with them.
    """
    context, clusters = strategy.context(max(number, 1)), strategy.runner.pieces.clusters
    plans, tiers = kept_plans(strategy, context), {}
    for tier in evaluated_tiers(strategy, context):
        tiers[tier.name] = {
            "rate": str(tier.rate),
            "depth": tier.depth,
            "plan": json.loads(plans[tier.name].to_json()),
            "moments": moments.speakers.get(tier.name),
        }
    several = len(clusters.states) > 1
    return TierRecords(
        round=number,
        network=strategy.network.to_json(),
        noise_share=noise_share,
        tiers=tiers,
        inputs=inputs.to_json(),
        main=clusters.main if several else None,
        clusters=tuple(clusters.states) if several else (),
        moments=moments.pooled,
    )


def costs_of(strategy: FlowerStrategy, traffic: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int | None]]:
    """What a device of each tier holds, computes and moves in a round.

    Args:
        strategy: of the run.
        traffic: by tier, bytes "down" and "up", as far as they are known.
    """
    costs: dict[str, dict[str, int | None]] = {}
    for tier in strategy.settings.tiers:
        plan = kept_part(strategy, strategy.context(1), tier)
        size, moved = cost_of(strategy.network, plan), traffic.get(tier.name, {})
        costs[tier.name] = {
            "parameters": size.parameters,
            "macs": size.macs,
            "bytes_down": moved.get("down"),
            "bytes_up": moved.get("up"),
        }
    return costs
