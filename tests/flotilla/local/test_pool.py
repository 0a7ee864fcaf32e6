"""The pool of processes: what happens when one of them dies, and what is left afterwards."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from threading import Timer
from time import sleep

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict

from flotilla.flwr_compat.messages import to_bytes
from flotilla.local.base import address_of
from flotilla.local.pool import PoolGrid
from protocol import HelloRequest
from strategies.exchange.messaging import exchange
from tests.support import configured


def hello(partition: int) -> Message:
    content = HelloRequest().to_record()
    return Message(content=content, message_type="query.hello", dst_node_id=address_of(partition))


def stop(pid: int) -> None:
    """Stop a worker, and come back when it does stand still."""
    os.kill(pid, signal.SIGSTOP)
    for _ in range(1000):
        if "State:\tT" in Path(f"/proc/{pid}/status").read_text():
            return
        sleep(0.01)
    raise TimeoutError(f"process {pid} goes on")


@pytest.mark.parametrize("idle", [True, False], ids=["while idle", "at work"])
def test_a_worker_that_dies_costs_at_most_its_own_client(idle: bool) -> None:
    config = configured(num_clients=6)
    with PoolGrid(config.flat, 6, processes=1) as grid:
        assert len(list(grid.send_and_receive([hello(0)]))) == 1  # it is up
        worker = grid._workers[0].process
        assert worker.pid is not None
        if idle:
            os.kill(worker.pid, signal.SIGKILL)
            worker.join()
        else:
            stop(worker.pid)  # so that both tasks at hand are still open when it dies
        ids = list(grid.push_messages([hello(i) for i in range(6)]))
        if not idle:
            os.kill(worker.pid, signal.SIGKILL)
        replies: dict[str, Message] = {}
        while len(replies) < 6:
            replies |= {reply.metadata.reply_to_message_id: reply for reply in grid.pull_messages(ids)}
    failed = [i for i in ids if replies[i].has_error()]
    assert failed == ids[:1]  # the one it had begun, and no other
    assert replies[ids[0]].error.code == 8


def test_nothing_is_left_in_shared_memory() -> None:
    config = configured(num_clients=2)
    with PoolGrid(config.flat, 2, processes=2) as grid:
        assert len(list(grid.send_and_receive([hello(0), hello(1)]))) == 2
        segments = [Path("/dev/shm") / segment.name for segment in grid._slots._all]
        assert segments
        assert all(path.exists() for path in segments)
        pids = [worker.process.pid for worker in grid._workers]
    assert not any(path.exists() for path in segments)
    assert not any(pid is not None and Path(f"/proc/{pid}").exists() for pid in pids)


def test_requests_that_nobody_waits_for_are_taken_back() -> None:
    """A worker hangs until after the deadline: what it had not begun is never done, and its late reply is dropped."""
    config = configured(num_clients=6)
    with PoolGrid(config.flat, 6, processes=1) as grid:
        assert len(list(grid.send_and_receive([hello(0)]))) == 1  # it is up
        worker = grid._workers[0].process
        assert worker.pid is not None
        stop(worker.pid)
        taken: list[Message | None] = []
        exchange(grid, [hello(i) for i in range(6)], lambda i, reply: taken.append(reply), seconds=0.2)
        assert taken == [None] * 6
        assert not grid._queue
        assert [task.withdrawn for task in grid._workers[0].tasks] == [True, True]  # at hand, and not begun
        os.kill(worker.pid, signal.SIGCONT)
        (reply,) = grid.send_and_receive([hello(5)])
        assert not reply.has_error()
        assert not grid._replies
        assert not grid._workers[0].tasks
        del reply
        assert len(grid._slots._free) == len(grid._slots._all)


def test_states_larger_than_a_pipe_do_not_block() -> None:
    """A worker sends a client's state back while the next client's is on its way to it."""
    config = configured(num_clients=4)
    state = RecordDict({"memory": ArrayRecord({"gradient": Array(np.zeros(2**20, dtype=np.float32))})})
    blob = to_bytes(state)
    with PoolGrid(config.flat, 4, processes=1) as grid:
        assert len(list(grid.send_and_receive([hello(0)]))) == 1  # it is up
        grid._states = {address_of(i): blob for i in range(4)}
        watchdog = Timer(240.0, grid._workers[0].process.kill)  # a blocked pipe would wait for ever
        watchdog.start()
        try:
            replies = list(grid.send_and_receive([hello(i) for i in range(4)]))
        finally:
            watchdog.cancel()
        assert not any(reply.has_error() for reply in replies)
        assert all(len(grid._states[address_of(i)]) >= len(blob) for i in range(4))
