"""The local engine over a pool of processes: the same records, the same numbers, all cores.

Every worker (`flotilla.local.worker`) is a process of its own that takes the next client as soon as it is done with
one. Array data stand in shared memory (`flotilla.local.shared`); everything else goes through pipes.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from flwr.app import Array, Error, Message

from flotilla.flwr_compat.messages import CLIENT_APP_CRASHED, CLIENT_APP_RAISED, error_as_sent
from flotilla.local.base import EngineGrid, addresses_of, partition_of
from flotilla.local.groups import grouped
from flotilla.local.shared import Segment, Slots, attach, detach
from flotilla.local.start import prepare_workers
from flotilla.local.worker import WANTED, WITHDRAWN, framed, joined, unframed, work
from protocol import Scalar

if TYPE_CHECKING:
    from strategies.exchange.fleet import Directory

_AHEAD = 2  # tasks a worker has at hand, so that it never waits for the parent
_WAIT = 0.05  # seconds that a pull waits for something to arrive


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    pipe: Connection
    tasks: deque[_Task] = field(default_factory=deque)


@dataclass(slots=True, kw_only=True)
class _Task:
    request: Message
    up: Segment
    down: list[_Down]
    together: int  # of the first of a group of requests that were handed out together, how many they are; else 0
    ends: bool  # the last of its group
    withdrawn: bool = False  # nobody waits for the reply


@dataclass(slots=True)
class _Down:
    """Array data on their way down, shared by all requests that carry the same `Array` object."""

    array: Array
    segment: Segment
    users: int = 0


def _room_for_reply(asked: Sequence[Array]) -> int:
    """Bytes that are kept for the arrays of a reply; a larger one comes through the pipe.

    It is seldom larger than what was sent and a little (float64 moments of a part, for one), unless a state is sent
    compressed.
    """
    return 2 * max((len(array.data) for array in asked), default=0) + 4096


class PoolGrid(EngineGrid):
    """Runs clients in worker processes. Use as a context manager.

    Args:
        run_config: the run configuration that every client sees.
        nodes: number of clients; their partition ids are 0 to nodes - 1.
        processes: number of workers; None is one per core.
        packages: of the user's own, by name, which workers can import.
        directory: what is known of the clients without asking.
    """

    def __init__(
        self,
        run_config: Mapping[str, Scalar],
        nodes: int,
        processes: int | None = None,
        packages: Mapping[str, Path] | None = None,
        directory: Directory | None = None,
    ) -> None:
        super().__init__(addresses_of(nodes), directory)
        self._slots = Slots()
        self._down: dict[int, _Down] = {}
        self._states: dict[int, bytes] = {}
        self._queue: deque[list[Message]] = deque()  # groups that are handed out together
        self._accepted: list[Message] = []
        self._replies: dict[str, Message] = {}
        code = {name: str(path) for name, path in (packages or {}).items()}
        self._settings = json.dumps(
            {"run_config": dict(run_config), "nodes": nodes, "packages": code, "environment": dict(os.environ)}
        )
        self._workers = [self._start() for _ in range(processes or os.cpu_count() or 1)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers and remove the shared memory."""
        for worker in self._workers:
            with suppress(OSError):
                worker.pipe.send_bytes(b"")
        for worker in self._workers:
            worker.process.join(timeout=5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()
        self._replies.clear()
        self._slots.close()

    # ---- Grid --------------------------------------------------------------------------------------------------------

    def accept(self, message: Message) -> None:
        """Queue the message; `push_messages` sets the workers on it."""
        self._accepted.append(message)

    def forget(self) -> None:
        """Drop the nodes' states, which are kept here and not in the workers."""
        self._states.clear()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages and give every worker something to do."""
        ids = super().push_messages(messages)
        accepted, self._accepted = self._accepted, []
        self._queue += grouped(accepted, len(self._workers), self.directory)
        self._feed()
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the asked replies that are there, waiting a moment for the first."""
        asked = list(message_ids)
        if not any(i in self._replies for i in asked):
            self._receive(_WAIT)
        else:
            self._receive(0.0)
        return [self._replies.pop(i) for i in asked if i in self._replies]

    def withdraw(self, message_ids: Iterable[str]) -> None:
        """Take back requests: those not begun are not worked on, and the replies to the others are dropped."""
        unwanted = set(message_ids)
        wanted = ([one for one in group if one.metadata.message_id not in unwanted] for group in self._queue)
        self._queue = deque(group for group in wanted if group)
        for message_id in unwanted:
            self._replies.pop(message_id, None)
        for worker in self._workers:
            for task in worker.tasks:
                if task.request.metadata.message_id in unwanted:
                    task.withdrawn = True
                    assert task.up.buf is not None  # open
                    task.up.buf[0] = WITHDRAWN

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push and wait for all replies."""
        del timeout  # a local client always answers
        waiting = list(self.push_messages(messages))
        replies: list[Message] = []
        while len(replies) < len(waiting):
            replies += self.pull_messages(waiting)
        return replies

    # ---- workers -----------------------------------------------------------------------------------------------------

    def _start(self) -> _Worker:
        method = prepare_workers()
        ours, theirs = method.Pipe()
        process = method.Process(target=work, args=(theirs, self._settings), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _feed(self) -> None:
        """Give every worker enough to do, evenly; the last tasks go to whoever has nothing left to do."""
        free = [worker for worker in self._workers if not any(task.withdrawn for task in worker.tasks)]
        workers = free or self._workers  # who is still at what nobody waits for any more may be there for long
        for depth in range(_AHEAD):
            for worker in workers:
                if len(self._queue) > depth * len(workers) and sum(task.ends for task in worker.tasks) <= depth:
                    group = self._queue.popleft()
                    self._hand_out(group, worker)

    def _hand_out(self, group: Sequence[Message], worker: _Worker) -> None:
        """Give a group of requests to a worker, all at once: each time it wakes takes longer than what it reads."""
        begun = list[tuple[_Task, list[bytes]]]()
        try:
            for number, request in enumerate(group):
                begun.append(self._begun(request, together=0 if number else len(group), ends=request is group[-1]))
        except Exception:  # nobody has been asked anything
            for task, _ in begun:
                self._release(task)
                self._slots.give(task.up)
            raise
        worker.tasks += [task for task, _ in begun]
        with suppress(OSError):  # it died while it had nothing to do; `_receive` finds the pipe closed and buries it
            worker.pipe.send_bytes(joined([frame for _, frame in begun]))

    def _begun(self, request: Message, *, together: int, ends: bool) -> tuple[_Task, list[bytes]]:
        """What is remembered of a request that is handed out, and its frame.

        Args:
            request: what.
            together: of the first of a group, how many are in it.
            ends: whether it is the last of its group.
        """
        light, arrays = detach(request.content)
        down = [self._share(array) for array in arrays]
        up = self._slots.take(_room_for_reply(arrays))
        assert up.buf is not None  # open
        up.buf[0] = WANTED
        node = request.metadata.dst_node_id
        head = {
            "partition": partition_of(node),
            "node": node,
            "type": request.metadata.message_type,
            "group": request.metadata.group_id,
            "down": [(shared.segment.name, len(shared.array.data)) for shared in down],
            "up": up.name,
        }
        frame = framed(json.dumps(head).encode(), self._states.get(node, b""), light)
        return _Task(request=request, up=up, down=down, together=together, ends=ends), frame

    def _share(self, array: Array) -> _Down:
        """Put an array's data where workers can see them, once for all requests that carry it."""
        known = self._down.get(id(array))
        if known is None:
            segment = self._slots.take(len(array.data))
            assert segment.buf is not None  # open
            segment.buf[: len(array.data)] = array.data
            known = self._down[id(array)] = _Down(array, segment)  # holds the array, so its id is not reused
        known.users += 1
        return known

    def _receive(self, seconds: float) -> None:
        """Take what the workers have finished."""
        busy = {worker.pipe: worker for worker in self._workers if worker.tasks}
        for pipe in wait(list(busy), seconds) if busy else []:
            worker = busy[pipe]  # type: ignore[index]
            try:
                while worker.tasks and worker.pipe.poll():
                    frame = worker.pipe.recv_bytes()  # before the task is taken off: a dead worker has not done it
                    self._accept(worker.tasks.popleft(), frame)
            except (EOFError, OSError):
                self._bury(worker)
        self._feed()

    def _accept(self, task: _Task, frame: bytes) -> None:
        head, state, light = unframed(frame)
        self._release(task)
        node = task.request.metadata.dst_node_id
        if task.withdrawn:
            self._slots.give(task.up)
            if "error" not in head:
                self._states[node] = state  # what the device did, it did
            return
        if "error" in head:
            self._slots.give(task.up)
            reply = Message(error_as_sent(CLIENT_APP_RAISED, head["error"]), reply_to=task.request)
        else:
            self._states[node] = state
            view = self._slots.view(task.up, head["length"])
            reply = Message(attach(light, [view[start:end] for start, end in head["up"]]), reply_to=task.request)
        self._replies[task.request.metadata.message_id] = reply

    def _bury(self, worker: _Worker) -> None:
        """A worker died: its first task is lost, the others are done by a new one.

        If that is the first of a group, it may be anyone's of them, who were trained side by side: each is tried by
        itself.
        """
        worker.process.join(timeout=10)  # its pipe is closed: it is about to end
        worker.process.kill()
        worker.process.join()
        rest = list(worker.tasks)
        for task in rest:
            self._release(task)
            self._slots.give(task.up)
        reason = f"the client's process ended with {worker.process.exitcode}"
        lost = None if rest[0].together > 1 else rest.pop(0)
        if lost is not None and not lost.withdrawn:
            self._replies[lost.request.metadata.message_id] = Message(
                Error(CLIENT_APP_CRASHED, reason), reply_to=lost.request
            )
        self._queue.extendleft([task.request] for task in reversed(rest) if not task.withdrawn)
        worker.pipe.close()
        self._workers[self._workers.index(worker)] = self._start()

    def _release(self, task: _Task) -> None:
        for down in task.down:
            down.users -= 1
            if down.users == 0:
                del self._down[id(down.array)]
                self._slots.give(down.segment)
