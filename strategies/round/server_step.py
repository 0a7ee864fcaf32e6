"""What the server does with the mean of a round: add it, add noise, correct it, let the method refine it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch

from models.algebra.plans import Plan
from models.algebra.submodel import Submodel, split
from protocol import NodeId
from strategies.aggregation.global_state import GlobalState
from strategies.context import RoundContext
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.fleet import TierTable
from strategies.exchange.node import Node
from strategies.exchange.update import AcceptedUpdate, ClientUpdate
from strategies.method import Method, Tensors
from strategies.round.parts import kept_part
from strategies.round.pieces import Pieces
from strategies.tiers.tier import Tier


class ServerStep:
    """Brings a round's mean into a global state.

    Args:
        method: says what the mean is multiplied by, and refines it.
        context: of any round.
        pieces: of the run. They add noise, know who is there, which FedDyn's scaling by holders asks about, and let
            stale replies count less, where that is on.
    """

    def __init__(self, method: Method, context: RoundContext, pieces: Pieces) -> None:
        self._method, self._privacy, self._nodes, self._buffer = method, pieces.privacy, pieces.nodes, pieces.buffer
        keeps = bool(context.settings.dynamic_alpha) or method.refines
        self._before = torch.empty(context.layout.parameters) if keeps else None

    def count_missing(self, state: GlobalState, missing: Sequence[TrainAssignment]) -> None:
        """With differential privacy who did not reply counts as a difference of zero."""
        if self._privacy is not None:
            for assignment in missing:
                state.average.add(assignment.part, torch.zeros(assignment.part.numel))

    def take(self, context: RoundContext, state: GlobalState, accepted: Sequence[AcceptedUpdate]) -> None:
        """Take the step that the accepted replies ask for; at least one."""
        method, average, tensors = self._method, state.average, state.tensors
        if self._before is not None:
            self._before.copy_(state.flat)
        if self._buffer is not None:
            self._buffer.discount(average)
        scale, least = method.scale(context, accepted), context.settings.guard.min_cover
        average.finish(tensors, out=tensors, scale=scale, least=least)
        if self._privacy is not None:
            numerator, denominator = method.weigh(context, accepted[0].assignment, ClientUpdate.nothing())
            self._privacy.add_noise(tensors, average, numerator / denominator, context.round_number)
        if self._before is None:
            return
        before = split(self._before, {name: tensor.shape for name, tensor in tensors.items()})
        if state.dynamic is not None:
            state.dynamic.correct(tensors, before, average, lambda: self._able(context, before))
        if method.refines:
            state.remembered = method.refine(context, before, tensors, average, state.remembered)

    def _able(self, context: RoundContext, state: Tensors) -> list[tuple[Submodel, int]]:
        """The parts of a state that the present nodes can hold, and how many of them hold each."""
        nodes, tiers = self._nodes.present
        present = context.at(self._nodes.number)
        plans: Counter[Plan] = Counter()
        each = tiers.counts().items() if isinstance(tiers, TierTable) else ((tier, 1) for tier in _of(nodes, tiers))
        for tier, count in each:
            plans[kept_part(self._method, present, tier)] += count
        return [(self._method.part(present, plan, state), count) for plan, count in plans.items()]


def _of(nodes: Sequence[Node], tiers: Mapping[NodeId, Tier]) -> Iterator[Tier]:
    return (tiers[node.id] for node in nodes if node.id in tiers)
