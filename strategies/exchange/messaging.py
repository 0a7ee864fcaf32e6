"""Send messages, take the replies in the round's own order, as they arrive.

Float sums depend on order, and a resumed run has to repeat the uninterrupted one bit for bit. So replies are taken in
the order in which the messages were made, whatever the order of arrival: only the next few outstanding ones are asked
for, the others wait at the SuperLink, and memory is bounded by that window.

A round that ends when it has enough replies is another matter: which ones these are is decided by the wall's clock, so
no order would make it repeatable. There replies are taken as they come, and nobody waits for the slowest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from logging import WARNING
from time import monotonic, sleep, time
from typing import Protocol, runtime_checkable

from flwr.app import Message
from flwr.common import log
from flwr.serverapp import Grid

from strategies.exchange.limit import Limit
from strategies.exchange.wait_times import WaitTimes

WINDOW = 16
# The longest that a reply lies at the SuperLink because nobody looks. Flower's own loop sleeps 3 s.
LONGEST_PAUSE = 0.1  # seconds
_FIRST_PAUSE = 0.005
# How long after a deadline the SuperLink keeps what belongs to it: a device whose clock is ahead by more than the time
# to live could not reply at all, so it is not as short as it might be; and at most flwr's own default.
_GRACE, _LONGEST_LIFE = 600.0, 43200.0
FROM_ANOTHER = "it is not from the node that was asked"
# What parsers raise; an error of the network, or of the operating system, is none of these.
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)

Taker = Callable[[int, Message | None], None]
Odd = Callable[[Message, str], None]


@runtime_checkable
class Withdrawing(Protocol):
    """A grid that can take back requests which nobody has begun to work on."""

    def withdraw(self, message_ids: Iterable[str]) -> None:
        """Take back requests, and forget the replies to those that have begun."""


@runtime_checkable
class Telling(Protocol):
    """A grid that says when a reply comes, so that nobody has to look again and again."""

    def wait_for_reply(self, seconds: float) -> None:
        """Return as soon as a reply has come since this last returned, or after so many seconds."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Where time comes from, so that tests need none.

    Attributes:
        now: seconds.
        sleep: waits.
        date: seconds since 1970, which nodes have too.
    """

    now: Callable[[], float] = monotonic
    sleep: Callable[[float], None] = sleep
    date: Callable[[], float] = time


_WALL = Clock()


def exchange(
    grid: Grid,
    messages: Sequence[Message],
    take: Taker,
    *,
    seconds: float,
    limit: Limit | None = None,
    odd: Odd | None = None,
    window: int = WINDOW,
    enough: Callable[[], bool] | None = None,
    patient: bool = False,
    sent: Callable[[], None] = lambda: None,
    taken: Callable[[], None] = lambda: None,
    clock: Clock = _WALL,
) -> WaitTimes:
    """Push messages and hand every reply to `take`.

    Args:
        grid: where the nodes are. What is still open in the end is withdrawn, where it can be.
        messages: what to send.
        take: called once per message with its position and its reply, or None if it was not delivered or did not come
            in time; in the order of the messages.
        seconds: how long to wait for all of them.
        limit: ends the wait earlier, by what has come so far.
        odd: called with a message that is no awaited reply, and why.
        window: replies asked for at a time.
        enough: if given, replies are taken as they come, until it says so; `take` hears nothing of the others then.
        patient: with `enough`: `seconds` begin anew with every reply, for questions to so many nodes that nobody knows
            how long all of them take.
        sent: called when the grid has the messages and nothing here needs more of them than their ids: whoever made
            them can let go of a state's megabytes before replies come, and do what else there is to do while nodes
            work. If it raises an error, the messages are withdrawn, where they can be.
        taken: called after every `take`, when its reply is no longer in memory.
        clock: where time comes from.
    """
    life = _LONGEST_LIFE if patient else min(seconds + _GRACE, _LONGEST_LIFE)
    began = clock.now()
    ids, addresses, pushed = _send(grid, messages, life)
    run = _Exchange(
        grid,
        ids,
        addresses=addresses,
        pushed=pushed,
        take=take,
        taken=taken,
        limit=limit,
        odd=odd,
        window=window,
        clock=clock,
        waited=WaitTimes(messages=len(ids), sent=clock.now() - began),
    )
    try:
        sent()
    except Exception:
        run.withdraw()
        raise
    run.waited.busy = clock.now() - run.start
    if enough is None:
        run.in_order(seconds)
    else:
        run.as_they_come(seconds, enough, patient)
    run.waited.processed = clock.now() - run.start
    if len(run.waited.arrived) < len(pushed):
        run.withdraw()
    return run.waited


def _send(grid: Grid, messages: Sequence[Message], life: float) -> tuple[list[str], list[int], set[str]]:
    """Push messages; their ids, addresses, and which were pushed. Keeps none of them, not even in a variable."""
    for message in messages:
        message.metadata.ttl = life
    pushed = set(grid.push_messages(messages))
    each = [message.metadata for message in messages]
    return [one.message_id for one in each], [one.dst_node_id for one in each], pushed


class _Exchange:
    """One exchange under way."""

    def __init__(
        self,
        grid: Grid,
        ids: list[str],
        addresses: list[int],
        pushed: set[str],
        take: Taker,
        taken: Callable[[], None],
        limit: Limit | None,
        odd: Odd | None,
        window: int,
        clock: Clock,
        waited: WaitTimes,
    ) -> None:
        self._grid, self._ids, self._odd, self._window = grid, ids, odd, window
        self._take, self._taken = take, taken
        self._clock, self.waited = clock, waited
        self._addresses, self._limit = addresses, limit
        self._position = {message_id: i for i, message_id in enumerate(ids)}
        self._pushed = [message_id in pushed for message_id in ids]
        self._done = [False] * len(ids)  # taken
        self._in_hand: dict[int, Message] = {}
        self._asked: dict[int, float] = {}  # position → when it was last asked for in vain
        self._pause, self._slept, self._stumbles = _FIRST_PAUSE, 0.0, 0
        self._last_seen = 0.0  # when the last reply came of which that is known
        self.start = clock.now()

    @property
    def open(self) -> list[str]:
        """Messages that were delivered and have no reply."""
        arrived = self.waited.arrived
        return [name for i, name in enumerate(self._ids) if self._pushed[i] and i not in arrived]

    def withdraw(self) -> None:
        """Take back what is open, where that can be done."""
        if self.open and isinstance(self._grid, Withdrawing):
            self._grid.withdraw(self.open)

    def in_order(self, seconds: float) -> None:
        """Take replies in the order of the messages, and None for those that are missing at the deadline."""
        taken, count = 0, len(self._ids)
        while taken < count:
            looked, reach = self._clock.now(), range(taken, min(taken + self._window, count))
            arrived = self._receive([i for i in reach if self._pushed[i] and i not in self._in_hand])
            deadline = self._deadline(seconds)  # which follows from what has come
            late, before = looked >= deadline, taken
            while taken < count and (taken in self._in_hand or not self._pushed[taken] or late):
                self._hand_over(taken)
                taken += 1
                if late and taken - before >= self._window:  # ask once for the next ones, they may have arrived
                    break
            if taken < count:
                self._sleep(something=taken > before or arrived, until=deadline)

    def as_they_come(self, seconds: float, enough: Callable[[], bool], patient: bool = False) -> None:
        """Take replies as they arrive until there are enough, and None for those that are missing at the deadline."""
        count = len(self._ids)
        for i in range(count):
            if not self._pushed[i]:
                self._hand_over(i)
        while not all(self._done) and not enough():
            looked, arrived = self._clock.now(), False
            outstanding = [i for i in range(count) if not self._done[i]]
            for start in range(0, len(outstanding), self._window):
                arrived |= self._receive(outstanding[start : start + self._window])
                for i in sorted(self._in_hand):
                    if not enough():
                        self._hand_over(i)
                if enough():
                    break
            deadline = self._deadline(seconds) + (self.waited.last if patient else 0.0)
            if looked >= deadline:
                for i in outstanding:
                    if not self._done[i] and not enough():
                        self._hand_over(i)
                break
            if not enough():
                self._sleep(something=arrived, until=deadline)
        self.waited.withdrawn = [i for i in range(count) if not self._done[i]]
        self._in_hand.clear()

    def _deadline(self, seconds: float) -> float:
        """When waiting ends, on the clock.

        A reply that may have been there for long does not say how long it took; that it was there at a look is a bound,
        which counts where nothing else is known.
        """
        waited, limit = self.waited, self._limit
        if limit is None:
            return self.start + seconds
        last = self._last_seen or (0.0 if limit.known else waited.last)
        return self.start + limit.seconds(seconds, waited.replies, last, waited.busy)

    def _receive(self, asked: list[int]) -> bool:
        """Keep what has arrived. A function of its own, so that nothing else keeps a reply of megabytes alive."""
        asking = self._clock.now() - self.start
        replies = self._pull([self._ids[i] for i in asked]) if asked else []
        now, waited = self._clock.now() - self.start, self.waited
        for reply in replies:
            i = self._position.get(reply.metadata.reply_to_message_id, -1)
            if i in self._in_hand or i not in asked:
                if self._odd is not None:
                    self._odd(reply, "duplicate" if i in self._in_hand or (i >= 0 and self._done[i]) else "unknown")
                continue
            if not reply.has_error() and reply.metadata.src_node_id != self._addresses[i]:  # errors are the SuperLink's
                if self._odd is not None:
                    self._odd(reply, FROM_ANOTHER)
                continue
            self._in_hand[i] = reply
            if i not in self._asked and asking > LONGEST_PAUSE:
                waited.unseen.add(i)
            else:
                self._last_seen = now
            waited.arrived[i] = waited.last = now
            waited.first = now if not waited.replies else waited.first
            waited.replies += 1
            waited.max_sleep = max(waited.max_sleep, self._slept)
            waited.max_poll_gap = max(waited.max_poll_gap, asking - self._asked.get(i, 0.0))
            waited.max_fetch = max(waited.max_fetch, now - asking)
            waited.max_transit = max(waited.max_transit, self._clock.date() - reply.metadata.created_at)
        self._asked.update((i, asking) for i in asked if i not in self._in_hand)
        return bool(replies)

    def _pull(self, ids: list[str]) -> list[Message]:
        """What a grid has for these ids; nothing if it cannot make messages of what it was sent.

        Flower parses a reply where it is fetched, and what it stumbles over a node has made: that reply, and those that
        were fetched with it, do not come. The patch in `server_app/flwr_patches` spares the others.
        """
        try:
            return list(self._grid.pull_messages(ids))
        except _UNREADABLE as error:
            self._stumbles += 1
            if self._stumbles > len(self._ids):  # it is not the replies, of which each can be stumbled over once
                raise
            log(WARNING, "a reply that the grid cannot read does not count (%s)", type(error).__name__)
            return []

    def _hand_over(self, i: int) -> None:
        """Let a reply be taken, or its absence."""
        if i in self._in_hand:
            self.waited.max_queued = max(
                self.waited.max_queued, self._clock.now() - self.start - self.waited.arrived[i]
            )
        self._done[i] = True
        self._take(i, self._in_hand.pop(i, None))
        self._taken()

    def _sleep(self, *, something: bool, until: float) -> None:
        """Sleep until the grid says that a reply came, or longer and longer; not beyond a point in time."""
        if something:
            self._pause, self._slept = _FIRST_PAUSE, 0.0
            return
        left = max(until - self._clock.now(), 0.0)
        if isinstance(self._grid, Telling):
            began = self._clock.now()
            self._grid.wait_for_reply(min(LONGEST_PAUSE, left))
            self._slept = self._clock.now() - began
            return
        self._slept = min(self._pause, left)
        self._clock.sleep(self._slept)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
