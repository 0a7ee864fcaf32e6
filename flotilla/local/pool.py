"""The local engine over a pool of processes: the same records, the same numbers, all cores.

Every worker is a fresh process that computes with one thread, holds one model per shape, and takes the next client as
soon as it is done with one. Array data stand in shared memory (`flotilla.local.shared`); everything else goes through
pipes as protobuf.
"""

from __future__ import annotations

import json
import multiprocessing as mp
import os
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any, Self

from flwr.app import Array, Context, Error, Message

from flotilla.flwr_compat.identity import assume_identity
from flotilla.flwr_compat.messages import CLIENT_APP_CRASHED, CLIENT_APP_RAISED, error_as_sent, from_bytes, to_bytes
from flotilla.local.base import EngineGrid, address_of
from flotilla.local.output import no_colours_into_pipes
from flotilla.local.shared import Attached, Segment, Slots, attach, detach
from flotilla.user_code import make_importable
from protocol import Scalar

_AHEAD = 2  # tasks a worker has at hand, so that it never waits for the parent
_WAIT = 0.05  # seconds that a pull waits for something to arrive
# First byte of where a reply goes, as long as nobody has begun to write it there.
_WANTED, _WITHDRAWN = 0, 1


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
    withdrawn: bool = False  # nobody waits for the reply


@dataclass(slots=True)
class _Down:
    """Array data on their way down, shared by all requests that carry the same `Array` object."""

    array: Array
    segment: Segment
    users: int = 0


class PoolGrid(EngineGrid):
    """Runs clients in worker processes. Use as a context manager.

    Args:
        run_config: the run configuration that every client sees.
        nodes: number of clients; their partition ids are 0 to nodes - 1.
        processes: number of workers; None is one per core.
        packages: of the user's own, by name, which workers can import.
    """

    def __init__(
        self,
        run_config: Mapping[str, Scalar],
        nodes: int,
        processes: int | None = None,
        packages: Mapping[str, Path] | None = None,
    ) -> None:
        self._nodes = {address_of(i): i for i in range(nodes)}
        super().__init__(self._nodes)
        self._slots = Slots()
        self._down: dict[int, _Down] = {}
        self._states: dict[int, bytes] = {}
        self._queue: deque[Message] = deque()
        self._replies: dict[str, Message] = {}
        code = {name: str(path) for name, path in (packages or {}).items()}
        self._settings = json.dumps({"run_config": dict(run_config), "nodes": nodes, "packages": code})
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
        self._queue.append(message)

    def forget(self) -> None:
        """Drop the nodes' states, which are kept here and not in the workers."""
        self._states.clear()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages and give every worker something to do."""
        ids = super().push_messages(messages)
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
        self._queue = deque(m for m in self._queue if m.metadata.message_id not in unwanted)
        for message_id in unwanted:
            self._replies.pop(message_id, None)
        for worker in self._workers:
            for task in worker.tasks:
                if task.request.metadata.message_id in unwanted:
                    task.withdrawn = True
                    assert task.up.buf is not None  # open
                    task.up.buf[0] = _WITHDRAWN

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
        method = mp.get_context("spawn")  # a fork would copy torch's threads and locks in whatever state they are
        ours, theirs = method.Pipe()
        process = method.Process(target=_work, args=(theirs, self._settings), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _feed(self) -> None:
        """Give every worker enough to do, evenly; the last tasks go to whoever has nothing left to do."""
        free = [worker for worker in self._workers if not any(task.withdrawn for task in worker.tasks)]
        workers = free or self._workers  # who is still at what nobody waits for any more may be there for long
        for depth in range(_AHEAD):
            for worker in workers:
                if len(self._queue) > depth * len(workers) and len(worker.tasks) <= depth:
                    self._send(worker, self._queue.popleft())

    def _send(self, worker: _Worker, request: Message) -> None:
        light, arrays = detach(request.content)
        places, down = {}, []
        for path, array in arrays.items():
            shared = self._share(array)
            down.append(shared)
            places[path] = (shared.segment.name, len(array.data))
        # A reply is never larger than what was sent plus a little (float64 moments of a part, for one).
        up = self._slots.take(2 * max((len(array.data) for array in arrays.values()), default=0) + 4096)
        assert up.buf is not None  # open
        up.buf[0] = _WANTED
        node = request.metadata.dst_node_id
        state = self._states.get(node, b"")
        head = json.dumps(
            {
                "partition": self._nodes[node],
                "node": node,
                "type": request.metadata.message_type,
                "group": request.metadata.group_id,
                "down": places,
                "up": up.name,
                "state": len(state),
            }
        ).encode()
        worker.tasks.append(_Task(request=request, up=up, down=down))
        with suppress(OSError):  # it died while it had nothing to do; `_receive` finds the pipe closed and buries it
            worker.pipe.send_bytes(_framed(head, state, light))

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
        head, state, light = _unframed(frame)
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
            data = {path: view[start:end] for path, (start, end) in head["up"].items()}
            reply = Message(attach(light, data), reply_to=task.request)
        self._replies[task.request.metadata.message_id] = reply

    def _bury(self, worker: _Worker) -> None:
        """A worker died: its first task is lost, the others are done by a new one."""
        worker.process.join(timeout=10)  # its pipe is closed: it is about to end
        worker.process.kill()
        worker.process.join()
        lost, rest = worker.tasks.popleft(), list(worker.tasks)
        for task in (lost, *rest):
            self._release(task)
            self._slots.give(task.up)
        reason = f"the client's process ended with {worker.process.exitcode}"
        if not lost.withdrawn:
            self._replies[lost.request.metadata.message_id] = Message(
                Error(CLIENT_APP_CRASHED, reason), reply_to=lost.request
            )
        self._queue.extendleft(task.request for task in reversed(rest) if not task.withdrawn)
        worker.pipe.close()
        self._workers[self._workers.index(worker)] = self._start()

    def _release(self, task: _Task) -> None:
        for down in task.down:
            down.users -= 1
            if down.users == 0:
                del self._down[id(down.array)]
                self._slots.give(down.segment)


def _framed(head: bytes, state: bytes, light: bytes) -> bytes:
    return b"".join((len(head).to_bytes(4, "little"), len(state).to_bytes(4, "little"), head, state, light))


def _unframed(frame: bytes) -> tuple[dict[str, Any], bytes, bytes]:
    head, state = int.from_bytes(frame[:4], "little"), int.from_bytes(frame[4:8], "little")
    return json.loads(frame[8 : 8 + head]), frame[8 + head : 8 + head + state], frame[8 + head + state :]


def _work(pipe: Connection, settings: str) -> None:
    """A worker: one client after the other until the pipe is closed."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    import torch

    common, attached = json.loads(settings), Attached()
    make_importable({name: Path(path) for name, path in common["packages"].items()})
    from client_app.app import app

    torch.set_num_threads(1)
    no_colours_into_pipes()
    assume_identity()
    frames: SimpleQueue[bytes] = SimpleQueue()
    # What comes in is always read: if the parent and a worker both wrote more than a pipe holds, both would wait.
    Thread(target=_read, args=(pipe, frames), daemon=True).start()
    while frame := frames.get():
        pipe.send_bytes(_done(frame, app, common, attached))


def _read(pipe: Connection, frames: SimpleQueue[bytes]) -> None:
    """Pass on what comes in; an empty frame is the end."""
    try:
        while frame := pipe.recv_bytes():
            frames.put(frame)
    except (EOFError, OSError):
        pass
    frames.put(b"")


def _done(frame: bytes, app: Any, common: Mapping[str, Any], attached: Attached) -> bytes:
    head, state, light = _unframed(frame)
    context = Context(
        run_id=1,
        node_id=head["node"],
        node_config={"partition-id": head["partition"], "num-partitions": common["nodes"], "allow": "*"},
        state=from_bytes(state),
        run_config=common["run_config"],
    )
    try:
        if attached.buffer(head["up"])[0] == _WITHDRAWN:
            raise TimeoutError("withdrawn before it was begun")
        data = {path: attached.buffer(name)[:length] for path, (name, length) in head["down"].items()}
        request = Message(
            content=attach(light, data), dst_node_id=head["node"], message_type=head["type"], group_id=head["group"]
        )
        answer, arrays = detach(app(request, context).content)
        up, places, end = attached.buffer(head["up"]), {}, 0
        for path, array in arrays.items():
            up[end : end + len(array.data)] = array.data
            places[path] = (end, end + len(array.data))
            end += len(array.data)
    except Exception as error:  # whatever a client raises becomes an error reply, as in flwr
        return _framed(json.dumps({"error": f"{type(error)}:<'{error}'>"}).encode(), b"", b"")
    new_state = to_bytes(context.state)
    return _framed(json.dumps({"up": places, "length": end}).encode(), new_state, answer)
