"""Workers of the pool that end by SIGKILL at one point of one client's work.

They do it themselves: no other process could hit that point for sure.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from functools import partial
from multiprocessing.connection import Connection
from typing import Any
from unittest.mock import patch

from flwr.app import Context, Message
from torch import Tensor

from flotilla.local import pool, worker
from flotilla.local.pool import PoolGrid, _Worker
from flotilla.local.shared import Attached
from protocol import TRAIN
from tests.support import address_of

# How much of the reply's frame is on its way when the worker dies.
NOTHING, HALF = 0, -1


class Dying(PoolGrid):
    """A pool of one worker, which dies in the first round, at a client's training or while its reply is sent.

    Args:
        run_config, nodes: as of `PoolGrid`.
        victim: the client.
        sent: how much of its reply is sent; None while it still trains.
    """

    def __init__(self, run_config: Any, nodes: int, victim: int, sent: int | None) -> None:
        self._dying = partial(work, victim=victim, sent=sent)
        self.workers = 0
        super().__init__(run_config, nodes, processes=1)

    def _start(self) -> _Worker:
        self.workers += 1
        with patch.object(pool, "work", self._dying):
            return super()._start()


def work(pipe: Connection, settings: str, victim: int, sent: int | None) -> None:
    """What the worker does instead of its own `work`: the same, as long as it lives."""
    from client_app.flat_sgd import FlatSGD

    answer, step = worker._answer, FlatSGD.step
    steps = 0

    def counted(self: FlatSGD, gradient: Tensor) -> None:
        nonlocal steps
        step(self, gradient)
        steps += 1
        if steps == 2:
            _die()

    def dying(
        head: Mapping[str, Any], request: Message | Exception, context: Context, app: Any, attached: Attached
    ) -> bytes:
        if (head["node"], head["type"], head["group"]) != (address_of(victim), TRAIN, "1"):
            return answer(head, request, context, app, attached)
        if sent is None:
            FlatSGD.step = counted  # type: ignore[method-assign]
        reply = answer(head, request, context, app, attached)
        framed = len(reply).to_bytes(4, "big") + reply  # as the pipe sends it
        os.write(pipe.fileno(), framed[: len(framed) // 2 if sent == HALF else 0])
        _die()
        return reply

    worker._answer = dying
    worker.work(pipe, settings)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
