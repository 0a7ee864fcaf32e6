"""How long replies are waited for, and whom a round does not ask because it has not answered for some time.

The time limit of a training round follows what rounds have taken: `deadline-factor` times as long as the slowest reply
that counted in the tiers asked, in the last rounds of each, or as the last one of this round; but at least a minute,
and at most the `deadline`. A node that was silent gets twice the time when it is asked again, and twice that the next
time: one that is only slow is found so. Of tiers that were never heard of, and of questions beside training, nothing is
known: there the whole deadline counts until half of the nodes have replied, or eight, then ten times what the last of
them took.

A server that does something else while nodes train may look for replies late. What it did is no time of the nodes: a
reply that it finds then counts with the seconds that its node says, and what replies of that tier took beside theirs
when they were looked for; and nobody is given up in the first minute of looking.

Only wall time is meant. Virtual devices are late by virtual time, and their machine takes what it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid
from torch import Tensor

from protocol import NodeId
from strategies.exchange.limit import Limit
from strategies.exchange.messaging import WINDOW, Odd, Taker, exchange
from strategies.exchange.stateful import RoundOutcome, Saved, Stateful
from strategies.exchange.wait_times import WaitTimes
from strategies.nodes.back_off import BackOff
from strategies.settings import Settings

LEAST = 60.0  # seconds: processes start, machines stand still
UNHEARD = 10.0  # times the last reply, where nothing else is known
_REMEMBERED = 5  # rounds of each tier
_MOST_STRETCH = 8


class Patience(Stateful):
    """Asks nodes and remembers who was silent, and how long the replies of each tier took.

    Args:
        settings: of the run.

    Attributes:
        silence: who has not answered lately, and rests for it.
        beside: tier → the most seconds that its replies took beside their nodes' own, when they were last looked for.
    """

    def __init__(self, settings: Settings) -> None:
        self._factor = 0.0 if settings.fleet is not None else settings.deadline_factor
        self.silence = BackOff[NodeId]()
        self._took: dict[str, list[float]] = {}
        self.beside: dict[str, float] = {}

    def ask(
        self,
        grid: Grid,
        messages: Sequence[Message],
        take: Taker,
        *,
        whom: Sequence[NodeId],
        number: int,
        seconds: float,
        tiers: Collection[str] = (),
        odd: Odd | None = None,
        enough: Callable[[], bool] | None = None,
        sent: Callable[[], None] = lambda: None,
        taken: Callable[[], None] = lambda: None,
    ) -> WaitTimes:
        """Exchange messages with nodes (see `exchange`) for as long as it makes sense.

        Args:
            grid: where the nodes are.
            messages: what to send.
            take: takes the replies.
            whom: the node of each message.
            number: of the round.
            seconds: the longest that is waited.
            tiers: of the nodes, where they are asked to train; else none.
            odd, enough, sent, taken: see `exchange`.
        """
        limit = self.limit(whom, tiers)
        waited = exchange(
            grid, messages, take, seconds=seconds, limit=limit, odd=odd, enough=enough, sent=sent, taken=taken
        )
        if self.silence.anybody or len(waited.arrived) < len(whom):
            self.note(number, whom, waited.arrived, waited.withdrawn)
        return waited

    def note(
        self, number: int, whom: Sequence[NodeId], arrived: Collection[int], withdrawn: Collection[int] = ()
    ) -> None:
        """Note who was silent in a round.

        Args:
            number: of the round.
            whom: who was asked.
            arrived: positions of those whose replies came.
            withdrawn: positions of those whose replies were not waited for.
        """
        for i, node in enumerate(whom):
            if i in arrived:
                if self.silence.anybody:
                    self.silence.heard(node, number)
            elif i not in withdrawn:
                self.silence.missed(node, number)

    def missed(self, node: NodeId, number: int) -> None:
        """Note that what a node answered in a round was of no use to anybody."""
        self.silence.missed(node, number)

    def limit(self, whom: Sequence[NodeId], tiers: Collection[str]) -> Limit | None:
        """When waiting for these nodes ends; None is when time is up."""
        if not self._factor:
            return None
        known = max(max(self._took[tier]) for tier in tiers) if tiers and all(map(self._took.get, tiers)) else None
        silent = max(map(self.silence.rounds, whom), default=0) if self.silence.anybody else 0
        if known is None:
            return Limit(replies=min((len(whom) + 1) // 2, WINDOW // 2), factor=UNHEARD, least=LEAST)
        return Limit(factor=min(2**silent, _MOST_STRETCH) * self._factor, known=known, least=LEAST)

    def resting(self, nodes: Sequence[NodeId], number: int) -> list[NodeId]:
        """Those that a round does not ask."""
        return [node for node in nodes if self.silence.rests(node, number)]

    def learn(self, outcome: RoundOutcome) -> None:
        """Note how long the replies that counted took."""
        self.beside |= outcome.beside_seconds
        for tier, seconds in outcome.arrival_seconds.items():
            self._took[tier] = [*self._took.get(tier, []), seconds][-_REMEMBERED:]

    def checkpoint(self) -> Saved:
        """Who was silent decides who is asked; the rest, how long."""
        return {}, {"silent": self.silence.checkpoint(), "took": self._took, "beside": self.beside}

    def restore(self, tensors: Mapping[str, Tensor], values: Any) -> None:
        """Take up a `checkpoint`."""
        del tensors
        self.silence.restore(values["silent"])
        self._took, self.beside = dict(values["took"]), dict(values.get("beside", {}))  # older ones lack it
