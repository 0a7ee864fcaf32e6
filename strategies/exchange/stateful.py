"""What everything that remembers something from round to round has in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from protocol import NodeId
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.report import RoundReport
from strategies.exchange.update import AcceptedUpdate

Saved = tuple[dict[str, Tensor], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundOutcome:
    """What came of a round, when its replies are in and the global states are what they are.

    Attributes:
        report: of the round; says its number, and whether it was abandoned.
        accepted: the replies that were added, also of a round that was abandoned.
        missed: assignments whose reply did not come, came late or was an error.
        transport_seconds: node → seconds until its accepted reply was there, less its own; where that is known.
        transport_at_most: node → the same, where only a bound is known: the reply may have been there for long.
        arrival_seconds: tier → seconds until the last of its accepted replies was there, on the wall's clock.
        beside_seconds: tier → the most of it that was no work of the node, of replies that were looked for.
        waited_in_vain: whether some reply did not come at all, so that the round lasted until its deadline.
    """

    report: RoundReport
    accepted: Sequence[AcceptedUpdate]
    missed: Sequence[TrainAssignment] = ()
    transport_seconds: Mapping[NodeId, float] = field(default_factory=dict)
    transport_at_most: Mapping[NodeId, float] = field(default_factory=dict)
    arrival_seconds: Mapping[str, float] = field(default_factory=dict)
    beside_seconds: Mapping[str, float] = field(default_factory=dict)
    waited_in_vain: bool = False

    @property
    def counted(self) -> Sequence[AcceptedUpdate]:
        """The accepted replies of a round that counts; none if it was abandoned."""
        return () if self.report.abandoned else self.accepted


class Stateful(Protocol):
    """A part of a run that the next rounds depend on. What a part does not need it inherits: nothing happens.

    Attributes:
        begins: whether there is anything to do when a round begins.
    """

    begins: bool = False

    def begin(self, round_number: int, state: Tensor) -> None:
        """Begin a round.

        Args:
            round_number: 1-based.
            state: the main global state before the round, flat.
        """
        del round_number, state

    def learn(self, outcome: RoundOutcome) -> None:
        """Take in what came of a round, and write into its report what there is to say."""
        del outcome

    def checkpoint(self) -> Saved:
        """Everything that the next rounds depend on: tensors by name, and JSON.

        It may be written when the next round has begun. So a tensor may be the piece's own only where planning a round
        leaves it alone, and only replies change it. JSON may be the piece's own; a caller that keeps it copies it.
        """
        return {}, None

    def restore(self, tensors: Mapping[str, Tensor], values: Any) -> None:
        """Take up a `checkpoint`."""
        del tensors, values
