"""What a selector may ask before it decides: losses and gradients of the present state, by QUERY messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid
from numpy.typing import NDArray

from models.algebra.plans import Plan
from protocol import GRADIENT, GRADIENTS, LOSSES, Objective, Reply, bytes_in, decode
from strategies.context import RoundContext
from strategies.exchange.node import Node
from strategies.exchange.report import RoundReport
from strategies.exchange.update import Rejected, Rejection, content_of, why_unusable
from strategies.nodes.history import NodeHistory
from strategies.nodes.patience import Patience
from strategies.round.requests import StateCache, loss_request
from strategies.selection import Probe
from strategies.selection.base import Floats, Positions
from strategies.selection.comparable import believed
from strategies.selection.update_sketch import UpdateSketcher


@dataclass(frozen=True, kw_only=True)
class GridProbe(Probe):
    """Asks the candidates of one round over the grid.

    Attributes:
        grid: where the nodes are.
        context: of the round.
        states: what the questions carry.
        nodes: the candidates, in their order.
        plan: by position, the part that its tier keeps.
        common: gives the part that the smallest tier keeps.
        objective: by position, what its tier optimises.
        patience: asks.
        seconds: how long to wait for all replies to one question.
        report: where bytes are counted and replies that are not used are named.
        history: where vectors are remembered.
        sketcher: makes vectors of gradients; None if the selector has no use for them.
        guard: whether losses are held against each other.
    """

    grid: Grid
    context: RoundContext
    states: StateCache
    nodes: Sequence[Node]
    plan: Callable[[int], Plan]
    common: Callable[[], Plan]
    objective: Callable[[int], Objective]
    patience: Patience
    seconds: float
    report: RoundReport
    history: NodeHistory
    sketcher: UpdateSketcher | None
    guard: bool

    def losses(self, positions: Positions, *, batch: int = 0, common: bool = False) -> Floats:
        """See `Probe.losses`."""
        found = np.full(len(positions), np.nan)

        def take(i: int, plan: Plan, reply: Reply) -> None:
            del plan
            loss = reply.metrics.get("loss")
            if loss is None or loss < 0:
                raise Rejected(f"loss = {loss}: allowed is 0 or more")
            found[i] = loss

        plans = [self.common()] * len(positions) if common else [self.plan(i) for i in positions.tolist()]
        self._ask(LOSSES, positions, plans, take, batch)
        return believed(found) if self.guard else found

    def gradients(self, positions: Positions) -> NDArray[np.float32]:
        """See `Probe.gradients`."""
        sketcher = self.sketcher
        assert sketcher is not None  # a selector that asks for gradients has said what it makes of them
        found = np.full((len(positions), sketcher.size), np.nan, dtype=np.float32)

        def take(i: int, plan: Plan, reply: Reply) -> None:
            assert reply.array is not None  # it was asked for
            part = self.states.part(plan, self.states.clusters_for(self.nodes[positions[i]].id)[0])
            gradient = decode(reply.array, part.numel)
            if not gradient.isfinite().all():
                raise Rejected("the gradient is not finite")
            self.report.survey_bytes["up"] += len(reply.array.data)
            found[i] = sketcher.vector(part, gradient)

        self._ask(GRADIENTS, positions, [self.plan(i) for i in positions.tolist()], take)
        known = np.flatnonzero(~np.isnan(found[:, 0]))
        rows = self.history.rows([self.nodes[i].id for i in positions[known].tolist()])
        self.history.vectors[rows] = found[known]
        return found

    def _ask(
        self,
        kind: str,
        positions: Positions,
        plans: Sequence[Plan],
        take: Callable[[int, Plan, Reply], None],
        batch: int = 0,
    ) -> None:
        whom = positions.tolist()
        asked = [
            loss_request(
                self.context,
                kind,
                self.nodes[i],
                plan,
                states=self.states,
                objective=self.objective(i),
                batch=batch,
                counted=self.history.last_counted(self.nodes[i].id),
            )
            for i, plan in zip(whom, plans, strict=True)
        ]

        def answer(i: int, message: Message | None) -> None:
            try:
                take(i, plans[i], content_of(message, asked[i][0], GRADIENT if kind == GRADIENTS else None))
            except Exception as error:
                self.report.rejected.append(Rejection(self.nodes[whom[i]].id, f"probe: {why_unusable(error)}"))

        messages = [message for _, message in asked]
        self.report.survey_bytes["down"] += sum(bytes_in(m.content) for m in messages)
        waited = self.patience.ask(
            self.grid,
            messages,
            answer,
            whom=[self.nodes[i].id for i in whom],
            number=self.report.number,
            seconds=self.seconds,
        )
        self.report.waiting["probe"] = waited.to_row()
