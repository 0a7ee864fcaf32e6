"""flwr's simulation without its waits: messages go on when they come, and the end does not wait for a second.

Loaded by path, like the program that uses it; nothing of ours is imported here. flwr 1.41 asks for every node every
0.1 s whether there is a message, which is twice a round, sees up to a second late that the ServerApp has ended, and
takes Ray apart before it says how the run has ended. Where its modules look different, nothing is done.
"""

from __future__ import annotations

import threading
from queue import Empty, Queue, SimpleQueue
from typing import Any

_END = 0.2  # seconds after which the end is seen


class _Attentive(Queue[Any]):
    """A queue that waits in short pieces, so that who reads it sees soon that it is to end."""

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """As `Queue.get`."""
        return super().get(block, timeout if timeout is None else min(timeout, _END))


def be_quick() -> bool:
    """Apply this to the process, before its simulation starts; returns whether it did."""
    from flwr.server.superlink.fleet.vce import vce_api
    from flwr.server.superlink.fleet.vce.backend.raybackend import RayBackend
    from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState

    there = ((vce_api, "Queue"), (vce_api, "add_messages_to_queue"), (InMemoryLinkState, "store_message_ins"))
    if not all(hasattr(place, name) for place, name in (*there, (RayBackend, "terminate"))):
        return False
    theirs, store_message_ins = vce_api.add_messages_to_queue, InMemoryLinkState.store_message_ins
    addressed: SimpleQueue[int] = SimpleQueue()  # a node for every message that is stored

    def store_and_tell(state: InMemoryLinkState, message: Any) -> Any:
        name = store_message_ins(state, message)
        addressed.put(message.metadata.dst_node_id)
        return name

    def add_messages_to_queue(
        state: Any, queue: Queue[Any], nodes_mapping: dict[int, int], f_stop: threading.Event
    ) -> None:
        if not isinstance(state, InMemoryLinkState):
            theirs(state, queue, nodes_mapping, f_stop)
            return
        while not f_stop.is_set():
            try:
                node_id = addressed.get(timeout=_END)
            except Empty:
                continue
            for message in state.get_message_ins(node_id=node_id, limit=1) if node_id in nodes_mapping else ():
                queue.put(message)

    def terminate(_: RayBackend) -> None:
        """Flotilla ends Ray's processes when the run is over, and these have nothing left to say."""

    setattr(InMemoryLinkState, "store_message_ins", store_and_tell)  # noqa: B010 - theirs, and of this process only
    setattr(RayBackend, "terminate", terminate)  # noqa: B010
    vars(vce_api).update(Queue=_Attentive, add_messages_to_queue=add_messages_to_queue)
    return True
