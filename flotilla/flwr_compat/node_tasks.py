"""The tasks of one SuperNode: each claimed, done by a ClientApp's process, and replied to whatever becomes of that.

Loaded by the program `executor`, by path; nothing of ours is imported here.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode, SubStatus
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest, PushObjectRequest
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullTaskInputRequest,
    PullTaskInputResponse,
    PushAppMessagesRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.task_identity import TaskIdentity
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

# The executor has loaded it; None where somebody else only looks at what is in this package.
warm: Any = sys.modules.get("_flotilla_warm_app")

_PAUSE = 1.0  # seconds before a SuperNode that does not answer is asked again
_PATIENCE = 60.0  # seconds in which one that does not answer may come back, and in which a process may end
_BEAT = 5.0  # seconds between two signs of life of a task; flwr gives a task up after 60
_SOON = 0.02  # seconds of rest where a request is there before its arrays are
_CHUNK = 1 << 20


class Abandoned(Exception):
    """Nobody waits for a reply to this message any more."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What becomes of a message.

    Attributes:
        announced: says that there is a reply.
        objects: of which it consists.
        output: of the task.
    """

    announced: PushAppMessagesRequest
    objects: list[PushObjectRequest]
    output: PushTaskOutputRequest


class Tasks:
    """Does the tasks of one SuperNode, one after another, each by a process that is forked for it.

    Args:
        client: of the SuperNode's Runtime API; it shows the token of the task at hand.
        alive: file to touch while a message is at work.
    """

    def __init__(self, client: Any, alive: Path | None = None) -> None:
        self._client, self._alive, self._parent = client, alive, os.getppid()
        self._beat = self._heard = 0.0  # when the SuperNode was told, and when it last answered
        self._app: Any = None

    def do(self) -> None:
        """Do the task at hand.

        Raises:
            Abandoned: the SuperNode has given it up or is gone, or who started this process is.
            httpx.HTTPError: it does not answer, or does not know the token.
        """
        began = self._beat = self._heard = time.monotonic()
        task = self._call("PullTaskInput", PullTaskInputRequest())
        pulled = self._call("PullMessages", PullAppMessagesRequest())
        while not pulled.messages_list and time.monotonic() - began < _PAUSE:  # a task is there before its message
            time.sleep(_SOON)
            pulled = self._call("PullMessages", PullAppMessagesRequest())
        if not pulled.messages_list:
            self._call("PushTaskOutput", PushTaskOutputRequest(sub_status=SubStatus.FAILED, details="no message"))
            return
        message = pulled.messages_list[0]
        about = {"node": Node(node_id=message.metadata.dst_node_id), "run_id": message.metadata.run_id}
        reply = self._answer(task, message, pulled.message_object_trees[0], about)
        session = self._call("PushMessages", reply.announced)
        wanted = set(session.objects_to_push)
        for made in reply.objects:
            if made.object_id in wanted:
                made.MergeFrom(PushObjectRequest(**about, session_id=session.session_id))
                self._call("PushObject", made)
        self._call("PushTaskOutput", reply.output)

    def _answer(
        self, task: PullTaskInputResponse, message: MessageProto, tree: ObjectTree, about: dict[str, Any]
    ) -> Reply:
        """Have a ClientApp process reply; an error where it is killed, or what it says is no reply."""
        confirm = ConfirmMessageReceivedRequest(**about, message_object_id=tree.object_id)
        confirmed, reason = False, ""
        for _ in range(2):
            reply, read, fault = None, False, ""
            try:
                place = self._begin(task)
            except OSError as error:  # no process, or no number for a socket, is left
                reason = f"could not be started: {error}"
                continue
            try:
                with place:
                    self._hear(place, warm.READY)
                    self._send(
                        place, PullTaskInputResponse(context=task.context, task_id=task.task_id).SerializeToString()
                    )
                    for one in iterate_object_tree(tree):
                        content = self._pull(one.object_id, about)
                        self._send(
                            place,
                            PushObjectRequest(object_id=one.object_id, object_content=content).SerializeToString(),
                        )
                    self._send(place, b"")
                    self._hear(place, warm.READ)
                    read = True
                    self._call("ConfirmMessageReceived", confirm)
                    confirmed = True
                    reply = _reply(warm.received(place, partial(self._wait, place)))
            except (EOFError, OSError):
                pass
            except (ValueError, DecodeError) as error:
                fault = f"did not reply with a message: {error}"
            finally:
                ended = self._ended()
            if reply is not None:
                return reply
            reason = fault or f"was {ended}"
            if read:  # one that had not read its request is as if it had never been: there will be another
                break
        if not confirmed:
            self._call("ConfirmMessageReceived", confirm)
        return _error(message, task.task_id, f"The ClientApp {reason}.")

    def _begin(self, task: PullTaskInputResponse) -> socket.socket:
        """A process for a message, forked from its app's."""
        place: socket.socket | None = None
        if self._app is not None and self._app.hash == task.fab.hash_str:
            with contextlib.suppress(OSError):  # its process has ended
                place = self._app.begin()
        if place is None:
            if self._app is not None:
                self._app.close()
            self._app = None
            self._app = warm.WarmApp(task)
            place = self._app.begin()
        return place

    def _pull(self, name: str, about: dict[str, Any]) -> bytes:
        """An object of the request, once the SuperNode has it."""
        while True:
            answer = self._call("PullObject", PullObjectRequest(**about, object_id=name))
            if not answer.object_found:
                raise Abandoned
            if answer.object_available:
                return bytes(answer.object_content)
            self._say_alive()
            time.sleep(_SOON)

    def _hear(self, place: socket.socket, word: bytes) -> None:
        """Wait for a ClientApp to say where it is."""
        self._wait(place)
        if place.recv(1) != word:
            raise EOFError

    def _send(self, place: socket.socket, content: bytes) -> None:
        """Send a frame to a ClientApp, which may read slowly, or be gone."""
        for part in (len(content).to_bytes(8, "big"), content):
            rest = memoryview(part)
            while rest:
                self._wait(place, writing=True)
                with contextlib.suppress(BlockingIOError):
                    rest = rest[place.send(rest[:_CHUNK], socket.MSG_DONTWAIT) :]

    def _wait(self, place: socket.socket, *, writing: bool = False) -> None:
        """Wait until a ClientApp says something, or takes something.

        Raises:
            EOFError: it is gone, even if a process that it has left behind holds its socket.
        """
        reads, writes = ([], [place]) if writing else ([place], [])
        while True:
            self._say_alive()
            readable, writable, _ = select.select([*reads, self._app], writes, [], _BEAT)
            if writable or place in readable:
                return
            if readable or self._app.gone():
                if any(select.select(reads, writes, [], 0)[:2]):  # its last words
                    return
                raise EOFError

    def _ended(self) -> str:
        """How the ClientApp has ended; it gets some time for that, and then its app is left behind."""
        until = time.monotonic() + _PATIENCE
        try:
            while not (how := self._app.ended(_BEAT)) and time.monotonic() < until:
                self._say_alive()
        except Abandoned:
            how = ""
            raise
        finally:
            if not how:
                self._app.kill()
                self._app = None
        return how or "stuck"

    def _say_alive(self) -> None:
        """Say that the task is in work, if it has not just been said; and see whether anybody wants to know."""
        if time.monotonic() - self._beat < _BEAT:
            return
        self._beat = time.monotonic()
        self._touch()
        if os.getppid() != self._parent:
            raise Abandoned
        try:
            known = self._client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success
            self._heard = time.monotonic()
        except httpx.TransportError:  # it may be about to come back
            known = time.monotonic() - self._heard < _PATIENCE
        except httpx.HTTPStatusError:  # another one is there that knows nothing of it
            known = False
        if not known:
            raise Abandoned

    def _touch(self) -> None:
        if self._alive:
            with contextlib.suppress(OSError):  # who looks at it will see that it is old
                self._alive.touch()

    def _call(self, name: str, request: Any) -> Any:
        """Ask the SuperNode for something about the task; it may be slow, or away for a moment."""
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                answer = getattr(self._client, name)(request)
            except httpx.TransportError:
                if time.monotonic() > until or os.getppid() != self._parent:
                    raise
                self._touch()
                time.sleep(_PAUSE)
            else:
                self._heard = time.monotonic()
                return answer


def _reply(frames: list[Any]) -> Reply:
    """A reply's frames, read; each object takes the place of its frame.

    Raises:
        DecodeError, ValueError: they are none of a reply.
    """
    announced = PushAppMessagesRequest.FromString(frames[0])
    if (len(announced.messages_list), len(announced.message_object_trees)) != (1, 1):
        raise ValueError(f"{len(announced.messages_list)} messages")
    for place in range(1, len(frames) - 1):
        frames[place] = PushObjectRequest.FromString(frames[place])
    return Reply(announced=announced, objects=frames[1:-1], output=PushTaskOutputRequest.FromString(frames[-1]))


def _error(asked: MessageProto, task: int, reason: str) -> Reply:
    """The reply in place of a ClientApp that is gone."""
    message = message_from_proto(asked)
    TaskIdentity.task_id, TaskIdentity.run_id = task, message.metadata.run_id
    TaskIdentity.node_id = message.metadata.dst_node_id
    announced, objects = warm.reply_frames(Message(Error(ErrorCode.CLIENT_APP_CRASHED, reason), reply_to=message))
    output = PushTaskOutputRequest(sub_status=SubStatus.FAILED, details=reason)
    return Reply(announced=announced, objects=list(objects), output=output)
