"""Which requests an engine hands to a client's process together, so that it may train side by side what is alike."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from flwr.app import Message

from client_app.side_by_side import likeness, most_together
from flotilla.local.base import partition_of
from protocol import TRAIN

if TYPE_CHECKING:
    from strategies.exchange.fleet import Directory


# Messages for each process among which groups are made. Replies are taken in the round's order, and those of a group
# come together: this bounds how many lie there.
_SPAN = 16


def grouped(messages: Sequence[Message], processes: int, directory: Directory | None) -> list[list[Message]]:
    """Messages in groups, each where its first message stood; what is alike is divided evenly among processes.

    Args:
        messages: in the order in which they are to be handed out.
        processes: that work on them.
        directory: what is known of the nodes: those with about as many examples take about as many steps.
    """
    found: list[list[Message]] = []
    for start in range(0, len(messages), span := _SPAN * max(4, processes)):
        found += _grouped(messages[start : start + span], processes, directory)
    return found


def _grouped(messages: Sequence[Message], processes: int, directory: Directory | None) -> list[list[Message]]:
    alike: dict[Hashable, list[int]] = {}
    for place, message in enumerate(messages):
        asked = likeness(message.content) if message.metadata.message_type == TRAIN else None
        alike.setdefault(asked, []).append(place)
    found = [[place] for place in alike.pop(None, [])]
    for places in alike.values():
        most = 1 if len(places) == 1 else most_together(messages[places[0]].content)
        if most > 1 and directory is not None:
            examples = [directory.examples[partition_of(messages[place].metadata.dst_node_id)] for place in places]
            places = [place for _, place in sorted(zip(examples, places, strict=True))]
        found += [sorted(group) for group in divided(places, most, processes)]
    return [[messages[place] for place in group] for group in sorted(found)]


def divided(members: Sequence[int], most: int, processes: int) -> list[Sequence[int]]:
    """Members in groups of at most so many, and no larger than lets each process have as many of them."""
    size = max(1, min(most, -(-len(members) // processes)))
    return [members[start : start + size] for start in range(0, len(members), size)]
