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


def grouped(messages: Sequence[Message], processes: int, directory: Directory | None) -> list[list[Message]]:
    """Messages in groups, each where its first message stood; what is alike is divided evenly among processes.

    Args:
        messages: in the order in which they are to be handed out.
        processes: that work on them.
        directory: what is known of the nodes: those with as many examples take as many steps.
    """
    alike: dict[Hashable, list[Message]] = {}
    for message in messages:
        alike.setdefault(_key(message, directory), []).append(message)
    found: list[list[Message]] = []
    for key, members in alike.items():
        most = 1 if key is None or len(members) == 1 else most_together(members[0].content)
        size = min(most, -(-len(members) // processes))
        found += [members[start : start + size] for start in range(0, len(members), size)]
    place = {message.metadata.message_id: i for i, message in enumerate(messages)}
    return sorted(found, key=lambda group: place[group[0].metadata.message_id])


def _key(message: Message, directory: Directory | None) -> Hashable:
    """What messages that may be answered together have in common; of others nothing is."""
    if message.metadata.message_type != TRAIN or (asked := likeness(message.content)) is None:
        return None
    node = partition_of(message.metadata.dst_node_id)
    return asked, None if directory is None else int(directory.examples[node])
