"""A worker of the pool: one client after the other, with one thread, and one model per shape held in between."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from flwr.app import Array, Context, Message, RecordDict

from flotilla.flwr_compat.identity import assume_identity
from flotilla.flwr_compat.messages import from_bytes, to_bytes
from flotilla.local.output import no_colours_into_pipes
from flotilla.local.shared import Attached, attach, detach, whole
from flotilla.user_code import make_importable
from protocol.reply_room import ReplyRoom, replies_in

# First byte of where a reply goes, as long as nobody has begun to write it there.
WANTED, WITHDRAWN = 0, 1


def framed(head: bytes, state: bytes, light: bytes) -> list[bytes]:
    """A message in pieces: lengths, a head in JSON, a client's state, a record without its arrays' data."""
    return [len(head).to_bytes(8, "little"), len(state).to_bytes(8, "little"), head, state, light]


def unframed(frame: bytes | memoryview) -> tuple[dict[str, Any], bytes, bytes]:
    """Take apart what `framed` has put together."""
    view = memoryview(frame)
    head, state = 16 + int.from_bytes(view[:8], "little"), int.from_bytes(view[8:16], "little")
    return json.loads(bytes(view[16:head])), bytes(view[head : head + state]), bytes(view[head + state :])


def joined(frames: Sequence[Sequence[bytes]]) -> bytes:
    """What goes through a pipe to a worker: frames, each behind its length."""
    return b"".join(piece for frame in frames for piece in (sum(map(len, frame)).to_bytes(8, "little"), *frame))


def apart(frames: bytes) -> Iterator[memoryview]:
    """Take apart what `joined` put together; nothing is copied."""
    view, at = memoryview(frames), 0
    while at < len(view):
        end = at + 8 + int.from_bytes(view[at : at + 8], "little")
        yield view[at + 8 : end]
        at = end


def work(pipe: Connection, settings: str) -> None:
    """A worker: one client after the other until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    common, attached = json.loads(settings), Attached()
    os.environ.clear()  # the fork server's is of when that was started
    os.environ.update(common["environment"])
    import torch

    make_importable({name: Path(path) for name, path in common["packages"].items()})
    from client_app.app import app
    from client_app.side_by_side import expect, expect_nobody

    torch.set_num_threads(1)
    no_colours_into_pipes()
    assume_identity()
    groups: SimpleQueue[bytes] = SimpleQueue()
    # What comes in is always read: if the parent and a worker both wrote more than a pipe holds, both would wait.
    Thread(target=_read, args=(pipe, groups), daemon=True).start()
    while group := groups.get():
        asked = [_asked(frame, common, attached) for frame in apart(group)]
        if len(asked) > 1:
            expect([(one.content, context) for _, one, context in asked if isinstance(one, Message)])
        for one in asked:
            pipe.send_bytes(_answer(*one, app, attached))
        expect_nobody()


def _read(pipe: Connection, groups: SimpleQueue[bytes]) -> None:
    """Pass on what comes in: frames of requests that belong together, none at the end."""
    try:
        while group := pipe.recv_bytes():
            groups.put(group)
    except (EOFError, OSError):
        pass
    groups.put(b"")


def _asked(
    frame: bytes | memoryview, common: Mapping[str, Any], attached: Attached
) -> tuple[dict[str, Any], Message | Exception, Context]:
    """What a frame says, the request in it, or why there is none, and of whom it asks."""
    head, state, light = unframed(frame)
    context = Context(
        run_id=1,
        node_id=head["node"],
        node_config={"partition-id": head["partition"], "num-partitions": common["nodes"], "allow": "*"},
        state=from_bytes(state) if state else RecordDict(),
        run_config=common["run_config"],
    )
    try:
        if attached.buffer(head["up"])[0] == WITHDRAWN:
            raise TimeoutError("withdrawn before it was begun")
        data = [attached.buffer(name)[:length] for name, length in head["down"]]
        request = Message(
            content=attach(light, data), dst_node_id=head["node"], message_type=head["type"], group_id=head["group"]
        )
    except Exception as error:
        return head, error, context
    return head, request, context


def _placed(content: RecordDict, room: ReplyRoom) -> tuple[bytes, list[tuple[int, int]]]:
    """A reply without its arrays' data, and where in its room those are; if they do not fit, all in one."""
    light, arrays = detach(content)
    places = []
    for array in arrays:
        start, length = room.start_of(array.data), len(array.data)
        if start is None:
            start, place = room.used, room.take(length)
            if place is None:
                return _whole(arrays, content), []
            place[:] = array.data
        places.append((start, start + length))
    return light, places


def _whole(arrays: Sequence[Array], content: RecordDict) -> bytes:
    for array in arrays:
        array.data = bytes(array.data)  # which protobuf wants
    return whole(content)


def _answer(
    head: Mapping[str, Any], request: Message | Exception, context: Context, app: Any, attached: Attached
) -> bytes:
    try:
        if isinstance(request, Exception):
            raise request
        if attached.buffer(head["up"])[0] == WITHDRAWN:
            raise TimeoutError("withdrawn before it was begun")
        room = ReplyRoom(attached.buffer(head["up"]))
        with replies_in(room):
            content = app(request, context).content
        answer, places = _placed(content, room)
    except Exception as error:  # whatever a client raises becomes an error reply, as in flwr
        return b"".join(framed(json.dumps({"error": f"{type(error)}:<'{error}'>"}).encode(), b"", b""))
    new_state = to_bytes(context.state) if context.state else b""  # most devices keep nothing
    return b"".join(framed(json.dumps({"up": places, "length": room.used}).encode(), new_state, answer))
