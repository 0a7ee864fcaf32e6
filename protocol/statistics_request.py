"""The question for statistics of static batch norm, of as many parts of one state as a device is to answer for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

from models.algebra.plans import Plan
from protocol.requests import PartRequest

MOST_PARTS = 4  # so that a reply is hardly longer than the state that it is about


@dataclass(frozen=True, slots=True, kw_only=True)
class StatisticsRequest(PartRequest):
    """Estimate the moments of every static batch norm of a part, and of others of the same state.

    Attributes:
        also: the others; the moments of all come as one vector, the first part's first.

    Raises:
        ValueError: more of them than a device can be asked for.
    """

    also: tuple[Plan, ...] = ()

    def __post_init__(self) -> None:
        if len(self.also) >= MOST_PARTS:
            raise ValueError(f"also: {len(self.also)} parts: allowed are {MOST_PARTS - 1}")

    def each(self) -> Iterator[Self]:
        """The question about each part, in order."""
        return (replace(self, plan=plan, also=()) for plan in (self.plan, *self.also))
