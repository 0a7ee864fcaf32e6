"""Where the seconds of an exchange of messages went."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class WaitTimes:
    """Where the seconds of an exchange went.

    Attributes:
        messages: that were sent.
        replies: that came in time.
        sent: seconds to hand all messages to the SuperLink.
        busy: from then until the first look for replies: so long something else was done while nodes worked.
        first, last: from then until the first and the last reply were in hand; 0 without replies.
        processed: from then until the last one was processed.
        max_sleep: longest sleep after which a reply was there.
        max_poll_gap: longest interval between the poll that missed a reply and the poll that found it: so long one may
            have lain at the SuperLink, with the polls for others. One beyond the window counts from the sending of all.
        max_fetch: longest poll that found something, which is Flower's transfer; no reply lay there longer than both.
        max_transit: longest time from the making of a reply by its node until it was in hand, by the clocks of both; it
            says something only where these agree, as on one host.
        max_queued: longest time that a reply in hand waited for its turn.
        arrived: position of a message → seconds from the sending of all until its reply was in hand.
        unseen: positions of the replies that were there at the first look for them, which was late: nobody knows how
            much earlier they had come.
        withdrawn: positions of the messages that were not waited for, because there were enough replies.
    """

    messages: int = 0
    replies: int = 0
    sent: float = 0.0
    busy: float = 0.0
    first: float = 0.0
    last: float = 0.0
    processed: float = 0.0
    max_sleep: float = 0.0
    max_poll_gap: float = 0.0
    max_fetch: float = 0.0
    max_transit: float = 0.0
    max_queued: float = 0.0
    arrived: dict[int, float] = field(default_factory=dict)
    unseen: set[int] = field(default_factory=set)
    withdrawn: list[int] = field(default_factory=list)

    def to_row(self) -> dict[str, float]:
        """For a line of metrics."""
        names = (
            "messages",
            "replies",
            "sent",
            "busy",
            "first",
            "last",
            "processed",
            "max_sleep",
            "max_poll_gap",
            "max_fetch",
            "max_transit",
            "max_queued",
        )
        return {name: getattr(self, name) for name in names}
