"""Send messages, take the replies in the round's own order, as they arrive.

Float sums depend on order, and a resumed run has to repeat the uninterrupted one bit for bit. So replies are taken in
the order in which the messages were made, whatever the order of arrival: only the next few outstanding ones are asked
for, the others wait at the SuperLink, and memory is bounded by that window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic, sleep

from flwr.app import Message
from flwr.serverapp import Grid

WINDOW = 16
_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.1

Taker = Callable[[int, Message | None], None]
Odd = Callable[[Message, str], None]


def exchange(
    grid: Grid,
    messages: Sequence[Message],
    take: Taker,
    *,
    seconds: float,
    odd: Odd | None = None,
    window: int = WINDOW,
) -> None:
    """Push messages and hand every reply to `take` in the order of the messages.

    Args:
        grid: where the nodes are.
        messages: what to send.
        take: called once per message with its position and its reply, or None if it was not delivered or did not come
            in time.
        seconds: how long to wait for all of them.
        odd: called with a message that is no awaited reply, and why.
        window: replies asked for at a time.
    """
    pushed = set(grid.push_messages(messages))
    ids = [message.metadata.message_id for message in messages]
    position = {message_id: i for i, message_id in enumerate(ids)}
    deadline, pause = monotonic() + seconds, _FIRST_PAUSE
    held: dict[int, Message] = {}
    taken = 0

    def receive(asked: list[int]) -> bool:
        """Hold what has arrived. A function of its own, so that nothing else keeps a reply of megabytes alive."""
        replies = list(grid.pull_messages([ids[i] for i in asked])) if asked else []
        for reply in replies:
            i = position.get(reply.metadata.reply_to_message_id, -1)
            if i in held or i not in asked:
                if odd is not None:
                    odd(reply, "duplicate" if 0 <= i < taken or i in held else "unknown")
            else:
                held[i] = reply
        return bool(replies)

    while taken < len(ids):
        late = monotonic() >= deadline
        asked = [i for i in range(taken, min(taken + window, len(ids))) if ids[i] in pushed and i not in held]
        arrived = receive(asked)
        before = taken
        while taken < len(ids) and (taken in held or ids[taken] not in pushed or late):
            take(taken, held.pop(taken, None))
            taken += 1
            if late and taken - before >= window:  # ask once for the next ones, they may have arrived
                break
        if taken > before or arrived:
            pause = _FIRST_PAUSE
        elif taken < len(ids):
            sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
