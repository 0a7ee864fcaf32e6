"""The interface of an aggregation rule: what it needs measured, and what it makes of a reply."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from protocol import NodeId, Optimiser, Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What a rule is told of one reply, beside its difference.

    Attributes:
        node: who sent it.
        weight: the method's own weight of it: 1, or examples.
        metrics: the numbers that came along.
        optimiser: what the client was told to train with, this round.
        dynamic_alpha: strength of FedDyn's regulariser, which it was told too; 0 is none.
    """

    node: NodeId
    weight: float
    metrics: Mapping[str, float]
    optimiser: Optimiser
    dynamic_alpha: float = 0.0

    def number(self, key: str, least: float, most: float) -> float:
        """A number that came along.

        Raises:
            ValueError: it is missing or out of range, so the reply cannot be used.
        """
        value = self.metrics.get(key)
        if value is None or not least <= value <= most:
            raise ValueError(f"{key} = {value}: allowed is {least:g} to {most:g}")
        return value


class Aggregation(ABC):
    """Turns replies into numerators a and denominators b of new = old + scale · Σ aΔ / Σ b, per coordinate.

    A rule keeps nothing from reply to reply or from round to round.
    """

    USES_NORM: ClassVar[bool] = False  # whether `weigh` looks at the norm
    COUNTS_STEPS: ClassVar[bool] = False  # whether a difference of fewer steps counts for more

    def check(self, work: Work, optimiser: Optimiser, tier_steps: Sequence[int]) -> None:
        """Find what cannot be with this rule before anything starts.

        Args:
            work: how clients compute.
            optimiser: of round 1.
            tier_steps: local steps by tier, () where every tier does the same.

        Raises:
            SettingError: names the key, the value and what is allowed.
        """
        del work, optimiser, tier_steps

    def work(self, work: Work) -> Work:
        """How a client has to compute, and what it has to measure, for this rule."""
        return work

    @abstractmethod
    def weigh(self, update: Update, norm: float) -> tuple[float, float]:
        """Numerator and denominator of a reply.

        Args:
            update: what came beside the difference.
            norm: L2 norm of the difference, before it was encoded, over all parameters of the part together; running
                statistics of batch norm are no parameters and do not count. Only right where `USES_NORM`.

        Raises:
            ValueError: a number that the rule needs is missing or out of range; the reply is then rejected.
        """

    def most_of_losses(self) -> tuple[float, float] | None:
        """How many times the usual "loss-before", and others' largest, one may be; None where it does not weigh."""
        return None

    def scale(self, updates: Sequence[Update]) -> float:
        """One factor for the whole round's step, from the replies that were accepted (at least one)."""
        del updates
        return 1.0
