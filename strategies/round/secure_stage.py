"""One stage of secure aggregation beside training: members are asked, and who does not answer well is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from flwr.app import Message
from flwr.serverapp import Grid

from protocol.secure.messages import RECORD, StageMessage
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.report import RoundReport
from strategies.exchange.update import Rejection, answer_of, why_unusable
from strategies.nodes.patience import Patience

T = TypeVar("T", bound=StageMessage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question(Generic[T]):
    """What a member is asked in a stage.

    Attributes:
        member: whom.
        request: what.
        keep: takes the answer to this very request; whatever it raises rejects it.
    """

    member: TrainAssignment
    request: StageMessage
    keep: Callable[[T], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageExchange:
    """Asks the members of all groups of a round.

    Attributes:
        grid: where the nodes are.
        patience: asks.
        report: of the round; filled in.
        seconds: how long answers are waited for at most.
    """

    grid: Grid
    patience: Patience
    report: RoundReport
    seconds: float

    def ask(self, kind: str, answers: type[T], questions: Sequence[Question[T]]) -> None:
        """Ask, and let every answer be kept that is one; the stage goes on without the others.

        Args:
            kind: of the messages.
            answers: what is expected.
            questions: whom, and what.
        """
        if not questions:
            return
        report, stage = self.report, kind.rpartition("_")[2]
        messages = [
            Message(
                content=one.request.to_record(),
                message_type=kind,
                dst_node_id=one.member.node.address,
                group_id=str(report.number),
            )
            for one in questions
        ]

        def answer(i: int, message: Message | None) -> None:
            asked = questions[i]
            try:
                asked.keep(answer_of(message, asked.request.nonce, answers.from_record))
                assert message is not None  # or there would have been no answer
                report.survey_bytes["up"] += _size(message)
            except Exception as error:
                reason = f"secure aggregation, {stage}: {why_unusable(error)}"
                report.rejected.append(Rejection(asked.member.node.id, reason))

        report.survey_bytes["down"] += sum(map(_size, messages))
        waited = self.patience.ask(
            self.grid,
            messages,
            answer,
            whom=[one.member.node.id for one in questions],
            number=report.number,
            seconds=self.seconds,
        )
        report.waiting[stage] = waited.to_row()


def _size(message: Message) -> int:
    """Bytes of a stage's fields."""
    return int(message.content[RECORD].count_bytes())
