"""Spare flwr's simulation two searches: ask only nodes that have a message, look for replies only when one has come.

flwr 1.41 asks its message store for every node ten times a second, and each of these calls walks all stored messages:
with 1,000 nodes and 50 messages this is a full core while a round runs, taken from the clients (docs/flower.md).
Calls that would return nothing are answered at once here. Replies are put into the same store, in the same process:
whoever waits for them is told, and does not look every few milliseconds nor, at the end of a round, too late. Nothing
else changes. Where flwr's classes look different, nothing is done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from threading import Event, Lock
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid


def ask_waiting_nodes_only(grid: Grid) -> bool:
    """Apply this to a simulation's grid; returns whether it did."""
    store: Any = getattr(grid, "state", None)
    if type(grid).__name__ != "InMemoryGrid" or not all(
        hasattr(store, name) for name in ("get_message_ins", "store_message_ins")
    ):
        return False
    waiting, lock = Counter[int](), Lock()
    look_up, put = store.get_message_ins, store.store_message_ins

    def store_message_ins(message: Message) -> Any:
        with lock:
            waiting[message.metadata.dst_node_id] += 1
        return put(message)

    def get_message_ins(node_id: int, *arguments: Any, **named: Any) -> Sequence[Message]:
        if not waiting[node_id]:
            return []
        found: Sequence[Message] = look_up(node_id, *arguments, **named)
        if found:
            with lock:
                waiting[node_id] -= len(found)
        return found

    store.store_message_ins, store.get_message_ins = store_message_ins, get_message_ins
    return True


def tell_of_replies(grid: Grid) -> bool:
    """Make a simulation's grid one that says when a reply comes (`strategies.exchange.messaging.Telling`).

    Returns:
        Whether it did.
    """
    store: Any = getattr(grid, "state", None)
    if type(grid).__name__ != "InMemoryGrid" or not hasattr(store, "store_message_res"):
        return False
    come, put = Event(), store.store_message_res

    def store_message_res(message: Message) -> Any:
        try:
            return put(message)
        finally:
            come.set()

    def wait_for_reply(seconds: float) -> None:
        come.wait(seconds)
        come.clear()

    store.store_message_res = store_message_res
    vars(grid).update(wait_for_reply=wait_for_reply)
    return True
