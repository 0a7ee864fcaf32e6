"""When an exchange of messages ends although its time is not up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Ends a wait before its time is up: at a multiple of what such replies have taken, or of what the last one took.

    Attributes:
        replies: that have to be in hand before anything is known.
        factor: times `known`, or the seconds until the last reply, whichever is more.
        known: seconds that such replies have taken; 0 is nothing.
        least: seconds that replies are looked for in any case.
    """

    replies: int = 0
    factor: float
    known: float = 0.0
    least: float = 0.0

    def seconds(self, most: float, replies: int, last: float, looking: float = 0.0) -> float:
        """Seconds from the sending of all at which waiting ends, with so many replies, the last one after so long.

        Args:
            most: at most.
            replies: that are in hand.
            last: seconds until the last of them came.
            looking: seconds until somebody began to look for them.
        """
        if replies < self.replies:
            return most
        return min(most, max(looking + self.least, self.factor * max(self.known, last)))
