"""When the replies of a round were there, and what of that the nodes' own work does not explain.

Whoever looks for replies late finds some that may have been there for long. Of these it is known that they came no
later than the look, and what their nodes say of themselves; what a server did meanwhile is no time of theirs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from protocol import NodeId
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.messaging import WINDOW


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """What is known of the accepted replies of a round, on the wall's clock, in seconds.

    Attributes:
        outside: mean time until a reply was in hand, less its node's own; None where no reply is known of.
        seconds: tier → until the last of its replies was there, as far as that is known.
        beside: tier → the most that one of its replies took beside its node's own work, of those that were looked for.
        transport: node → the same of its reply, where that is known.
        transport_at_most: node → where no more is known.
    """

    outside: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    beside: Mapping[str, float] = field(default_factory=dict)
    transport: Mapping[NodeId, float] = field(default_factory=dict)
    transport_at_most: Mapping[NodeId, float] = field(default_factory=dict)

    @staticmethod
    def of(
        assignments: Sequence[TrainAssignment],
        own: Mapping[int, float],
        arrived: Mapping[int, float],
        unseen: Collection[int],
        known: Mapping[str, float],
    ) -> Arrivals:
        """Of one round.

        Args:
            assignments: what was asked.
            own: position of an accepted reply → seconds of work, as its node says.
            arrived: position of a request → seconds from the sending of all until its reply was in hand.
            unseen: positions of those that may have been there for long.
            known: tier → `beside`, of rounds before.
        """
        rest = {i: max(0.0, after - own[i]) for i, after in arrived.items() if i in own}
        beside: dict[str, float] = {}
        for i in rest.keys() - unseen:
            beside[assignments[i].tier] = max(beside.get(assignments[i].tier, 0.0), rest[i])
        seconds: dict[str, float] = {}
        for i in rest:
            tier, after = assignments[i].tier, arrived[i]
            if i in unseen:  # the look is what bounds it, whatever a node says
                after = min(after, max(own[i], 0.0) + beside.get(tier, known.get(tier, inf)))
            seconds[tier] = max(seconds.get(tier, 0.0), after)
        # Only for the first of them is looked from the start; a later reply may have been waiting unseen.
        sure = {i for i in rest if i < WINDOW and i not in unseen}
        return Arrivals(
            outside=sum(arrived[i] - own[i] for i in rest) / len(rest) if rest else None,
            seconds=seconds,
            beside=beside,
            transport={assignments[i].node.id: rest[i] for i in rest if i in sure},
            transport_at_most={assignments[i].node.id: rest[i] for i in rest if i not in sure},
        )
