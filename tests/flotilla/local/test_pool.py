"""The pool of processes: what happens when one of them dies, and what is left afterwards."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from threading import Timer
from time import sleep

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from client_app.app import app
from flotilla.flwr_compat.messages import to_bytes
from flotilla.local import pool
from flotilla.local import worker as workers
from flotilla.local.base import address_of
from flotilla.local.grid import LocalGrid, contexts
from flotilla.local.pool import PoolGrid
from flotilla.local.shared import attach
from protocol import DIFFERENCE, HelloRequest, Reply
from protocol.codecs import NOTHING, CodecSettings, codec_of
from protocol.reply_room import ReplyRoom, replies_in
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


def answer_with(*sizes: int, room: int) -> tuple[RecordDict, list[tuple[int, int]], ReplyRoom]:
    """What arrives of a reply that has arrays of its own, and one that lies in the room already."""
    kept = ReplyRoom(memoryview(bytearray(room)))
    with replies_in(kept):
        written = codec_of(CodecSettings()).encode(torch.arange(8.0), [8], np.random.default_rng(1), NOTHING)
    record = ArrayRecord({f"{i}": Array(np.full(size, i, np.uint8)) for i, size in enumerate(sizes)})
    record["written"] = written
    light, places = workers._placed(RecordDict({"arrays": record, "said": ConfigRecord({"n": 1})}), kept)
    data = [kept._buffer[start:end] for start, end in places]
    return attach(light, data), places, kept


@pytest.mark.parametrize("room", [1000, 300, 0], ids=["all", "some", "none"])
def test_a_reply_that_does_not_fit_arrives_all_the_same(room: int) -> None:
    found, places, kept = answer_with(20, 50, room=room)
    record, said = found["arrays"], found["said"]
    assert isinstance(record, ArrayRecord)
    assert isinstance(said, ConfigRecord)
    assert [record[name].numpy().tolist() for name in ("0", "1")] == [[0] * 20, [1] * 50]
    assert record["written"].numpy().tolist() == list(range(8))
    assert said["n"] == 1
    assert len(places) == (3 if room == 1000 else 0)
    if places:
        starts = sorted(places)
        assert starts[0][0] == 0
        assert all(end == start for (_, end), (start, _) in pairwise(starts))
        assert starts[-1][1] == kept.used


@pytest.mark.parametrize("changes", [{}, {"codec_down": "qsgd"}], ids=["whole", "compressed"])
def test_without_room_for_replies_a_round_comes_to_the_same(
    changes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(num_clients=3, **changes)
    states = []
    for room in (None, 1):
        if room is not None:
            monkeypatch.setattr(pool, "_room_for_reply", lambda _: 1)
        strategy = config.strategy()
        for tensor in strategy.state.values():
            tensor.copy_(torch.linspace(-0.1, 0.1, tensor.numel()).view_as(tensor))
        with PoolGrid(config.flat, 3, processes=1) as grid:
            reports = [strategy.run_round(grid, number) for number in (1, 2)]
        assert not any(report.rejected for report in reports)
        states.append({name: tensor.clone() for name, tensor in strategy.state.items()})
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_difference_is_computed_in_the_room_of_its_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, as a worker does it: nothing of the reply has memory of its own."""
    config = configured(num_clients=1)
    grid, room = LocalGrid(app, contexts(config.flat, 1)), ReplyRoom(memoryview(bytearray(1 << 22)))
    arrays: list[Array] = []
    to_record = Reply.to_record

    def noted(reply: Reply, name: str = DIFFERENCE) -> RecordDict:
        if reply.array is not None and room.used:
            arrays.append(reply.array)
            reply = replace(
                reply, array=Array(reply.array.dtype, reply.array.shape, "numpy.ndarray", bytes(reply.array.data))
            )
        return to_record(reply, name)

    monkeypatch.setattr(Reply, "to_record", noted)
    with replies_in(room):
        report = config.strategy().run_round(grid, 1)
    assert not report.rejected
    assert [room.start_of(one.data) for one in arrays] == [0]


def test_requests_and_replies_go_as_json() -> None:
    """What is sent most must not fall back to protobuf unnoticed."""
    config = configured(num_clients=2)
    sent, came = list[bytes](), list[bytes]()
    with PoolGrid(config.flat, 2, processes=1) as grid:
        pipe = grid._workers[0].pipe
        send = pipe.send_bytes

        class Pipe:
            def send_bytes(self, data: bytes) -> None:
                sent.append(data)
                send(data)

            def recv_bytes(self) -> bytes:
                came.append(pipe.recv_bytes())
                return came[-1]

            def __getattr__(self, name: str) -> object:
                return getattr(pipe, name)

        strategy = config.strategy()
        for tensor in strategy.state.values():
            tensor.copy_(torch.linspace(-0.1, 0.1, tensor.numel()).view_as(tensor))
        grid._workers[0].pipe = Pipe()  # type: ignore[assignment]
        assert not strategy.run_round(grid, 1).rejected
        grid._workers[0].pipe = pipe
    frames = [workers.unframed(frame) for group in sent for frame in workers.apart(group)]
    trained = [(head, light) for head, _, light in frames if head["type"] == "train.part"]
    assert len(trained) == 2
    assert all(light.startswith(b"j[") and head["down"] for head, light in trained)
    replies = [(head, light) for head, _, light in map(workers.unframed, came) if head["up"]]
    assert len(replies) == 2
    assert all(light.startswith(b"j[") for _, light in replies)


@given(st.lists(st.tuples(st.binary(max_size=9), st.binary(max_size=9)), max_size=4))
def test_frames_come_apart_as_they_were_joined(pairs: list[tuple[bytes, bytes]]) -> None:
    together = workers.joined([workers.framed(b'{"n": 1}', state, light) for state, light in pairs])
    assert [workers.unframed(frame) for frame in workers.apart(together)] == [({"n": 1}, *pair) for pair in pairs]


def test_a_request_that_cannot_be_sent_leaves_nothing_behind() -> None:
    config = configured(num_clients=2)
    with PoolGrid(config.flat, 2, processes=1) as grid:
        unsayable = hello(1)
        unsayable.content["wrong"] = ConfigRecord({"a": "\ud800"})
        with pytest.raises(UnicodeEncodeError):
            grid._hand_out([hello(0), unsayable], grid._workers[0])
        assert not grid._workers[0].tasks
        assert not grid._down
        (reply,) = grid.send_and_receive([hello(1)])
        assert not reply.has_error()
