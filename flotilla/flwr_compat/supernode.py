"""`flower-supernode` that looks again soon: the same program and options, with rests that fit what is going on.

flwr 1.41's SuperNode asks the SuperLink for a message, and if there is none sleeps three seconds; while its ClientApp
works it looks for the reply every half second; and who runs its ClientApps asks it several times a second whether there
is something to do. In a round of seconds these rests are most of it. Here

- the rest between two questions to the SuperLink is a quarter of the time since the last message, from 0.2 s up to
  flwr's 3 s: a node that is asked often hears soon, one that nobody asks costs the SuperLink no more than before; there
  is none where the SuperLink has held the question (`superlink.py`);
- a reply is seen within a fiftieth of a second;
- an executor that asks for a task is answered when there is one, or after five seconds;
- arrays that are still on their way are asked for again within a tenth of a second.

Started as a script in place of `flower-supernode`; nothing of ours is imported here. Where flwr looks different,
that rest is as it comes.

A question whose asker is gone could be given a task that nobody does then, and flwr would wait a minute for it: it ends
when the next one comes, of the executor that took the place of the first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from flwr.proto.runtime_pb2 import AcquireTaskResponse
from flwr.supercore.inflatable import inflatable_utils
from flwr.supernode import start_client_internal as loop
from flwr.supernode.cli.flower_supernode import flower_supernode
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState
from flwr.supernode.servicer.runtime import runtime_handlers

_FIRST, _LONGEST = 0.2, 3.0  # seconds between two questions to the SuperLink
_SHARE = 0.25  # of the time since the last message
_REPLY = 0.02  # seconds between two looks for the ClientApp's reply, or for the rest of it
_IDLE = 1.0  # seconds: flwr's sleeps from here on are those without a message
_HELD = 2.5  # seconds: a question that took longer was held, for three
_HOLD = 5.0  # seconds that a question for a task waits for its answer
_TRANSFER = {"initial_backoff": 0.02, "backoff_cap": 0.1, "max_tries_per_object": None}


class Rests:
    """In place of the module `time` in flwr's loop; what it has beside these is that module's.

    Args:
        now, sleep: the clock.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> None:
        self._now, self._sleep = now, sleep
        self._last = self._woke = now()

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def message(self) -> None:
        """One has come, and is done."""
        self._last = self._now()

    def sleep(self, seconds: float) -> None:
        """Sleep as long as it takes, whatever flwr wants."""
        if seconds < _IDLE:
            self.message()
            self._sleep(min(seconds, _REPLY))
        elif self._now() - self._woke < _HELD:
            self._sleep(min(max(_SHARE * (self._now() - self._last), _FIRST), seconds, _LONGEST))
        self._woke = self._now()


def hold(acquire: Callable[..., Any], come: threading.Event) -> Callable[..., Any]:
    """A handler for `AcquireTask` that waits for a task, or the next question, rather than say that there is none."""
    turn, newest = threading.Lock(), 0

    def acquire_task(request: Any, state: Any) -> Any:
        nonlocal newest
        until = time.monotonic() + _HOLD
        with turn:
            newest += 1
            mine = newest
            come.set()  # the one before has nobody to answer any more
        while True:
            with turn:
                if mine != newest:
                    return AcquireTaskResponse()
                come.clear()
                answer = acquire(request, state)
            rest = until - time.monotonic()
            if answer.token or rest <= 0:
                return answer
            come.wait(rest)

    return acquire_task


def be_quick() -> None:
    """Apply all of this to the process."""
    if hasattr(loop, "time"):
        vars(loop).update(time=Rests())
    defaults = getattr(inflatable_utils.pull_objects, "__kwdefaults__", None) or {}
    if defaults.keys() >= _TRANSFER.keys():
        defaults.update(_TRANSFER)
    acquire: Callable[..., Any] | None = getattr(runtime_handlers, "acquire_task", None)
    store: Callable[..., Any] | None = getattr(InMemoryNodeState, "store_message", None)
    if acquire is None or store is None:
        return
    come = threading.Event()

    def store_message(self: InMemoryNodeState, message: Any) -> Any:
        stored = store(self, message)
        come.set()  # not before: a task is made before its message is there
        return stored

    setattr(InMemoryNodeState, "store_message", store_message)  # noqa: B010 - theirs
    vars(runtime_handlers).update(acquire_task=hold(acquire, come))


if __name__ == "__main__":
    be_quick()
    flower_supernode()
