"""A SuperExec that keeps flwr, torch and the app loaded: each message's ClientApp process is forked.

Flower starts a new Python for every message, which imports flwr and torch before it does anything, then unpacks the
bundle and imports the app: seconds of CPU on a server, tens of seconds on a small board. Here the imports are done
once, the app is loaded once for each bundle (`warm_app.py`), and a fork takes milliseconds. The isolation is the same:
one process for each message, with the app's code from the bundle alone. What is loaded is shared between these
processes, so a device's peak of memory is lower, and its idle share higher, than with Flower's.

This process talks to the SuperNode, over connections that stay; the ClientApp gets its request through a socket. One
that is killed says nothing, and flwr's SuperNode would wait a minute for it and begin nothing else: here its socket
closes, and an error goes out in its place at once. The SuperNode hears of a reply when all of it is here.

Started as a script (`python executor.py --runtime-api-address HOST:PORT …`) beside `flower-supernode --isolation
process`; nothing of ours is imported here but what stands beside it, and flotilla never imports it. Several addresses:
one process forked for each, which is what `flotilla federation` does for the SuperNodes of one host.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import importlib.util
import os
import select
import signal
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import torch  # so that no child has to
from flwr.app import Error, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode, SubStatus
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest, PushObjectRequest
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    PullTaskInputResponse,
    PushAppMessagesRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.auth import load_superexec_auth_secret
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity

_POLL = float(os.environ.get("FLWR_SUPEREXEC_TASK_POLL_INTERVAL", "0.2"))  # seconds
_PAUSE = 1.0  # seconds before a SuperNode that does not answer is asked again
_PATIENCE = 60.0  # seconds in which one that does not answer may come back in the middle of a message
_BEAT = 5.0  # seconds between two signs of life of a task; flwr gives a task up after 60
_SOON = 0.02  # seconds of rest where a request is there before its arrays are
_PRELOADED = (torch, ClientApp)
# What Flotilla's clients import as well, each where it is installed: up to five seconds of CPU for every bundle.
_WORTH_LOADING = ("safetensors.torch", "sklearn.datasets", "flwr_datasets.partitioner")


def _beside(name: str) -> Any:
    """A module of this folder, under another name: the package that it belongs to must come from the bundle."""
    found = importlib.util.spec_from_file_location(f"_flotilla_{name}", Path(__file__).with_name(f"{name}.py"))
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


warm = _beside("warm_app")


def main() -> None:
    """Parse, load, serve."""
    parser = argparse.ArgumentParser(description="Run ClientApps, with flwr, torch and the app loaded once.")
    parser.add_argument("--runtime-api-address", action="append", required=True, help="of a SuperNode; repeatable")
    trust = parser.add_mutually_exclusive_group(required=True)
    trust.add_argument("--root-certificates", type=Path, help="certificate that vouches for the SuperNodes")
    trust.add_argument("--insecure", action="store_true", help="the SuperNodes have no TLS")
    parser.add_argument("--superexec-auth-secret-file", help="the secret that the SuperNodes have")
    parser.add_argument("--alive", type=Path, help="file to touch at every look for work, for a health check")
    options = parser.parse_args()
    root = None if options.insecure else options.root_certificates.read_bytes()
    secret = options.superexec_auth_secret_file
    secret = load_superexec_auth_secret(secret_file=secret) if secret else None
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    for name in _WORTH_LOADING:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()  # the collector must not touch, and so copy, what the children share
    addresses = options.runtime_api_address
    if len(addresses) == 1:
        serve(addresses[0], root, secret, options.alive)
        return
    children = {warm.fork(serve, address, root, secret): address for address in addresses}
    while True:
        pid, _ = os.wait()
        address = children.pop(pid)
        time.sleep(_PAUSE)
        children[warm.fork(serve, address, root, secret)] = address


class _Token:
    """Shows the token of the task at hand, over a connection that outlives it."""

    def __init__(self) -> None:
        self.shown: RuntimeTokenHttpInterceptor | None = None

    def intercept(self, context: Any, call_next: Any) -> Any:
        """Add it to a request; flwr's interface of an interceptor."""
        return self.shown.intercept(context, call_next) if self.shown else call_next(context)


class Abandoned(Exception):
    """Nobody waits for a reply to this message any more."""


def serve(address: str, root: bytes | None, secret: bytes | None, alive: Path | None = None) -> None:
    """Claim the tasks of one SuperNode and have each done, until the process that started this one is gone."""
    looking: list[Any] = [RuntimeVersionHttpInterceptor(component_name="SuperExec")]
    if secret:
        acquiring = frozenset({"/flwr.proto.Runtime/AcquireTask"})
        looking.append(SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=acquiring))
    token = _Token()
    doing: list[Any] = [RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"), token]
    node = RuntimeHttpClient.from_server_address(address, root is None, root, looking)
    tasks = Tasks(RuntimeHttpClient.from_server_address(address, root is None, root, doing))
    request, parent = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]), os.getppid()
    while os.getppid() == parent:
        if alive:
            alive.touch()
        began = time.monotonic()
        try:
            claimed = node.AcquireTask(request).token
        except httpx.HTTPError:
            time.sleep(_PAUSE)
            continue
        if claimed:
            token.shown = RuntimeTokenHttpInterceptor(claimed)
            with contextlib.suppress(Abandoned, httpx.HTTPError):
                tasks.do()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:  # apps that are gone
                    pass
        else:  # a SuperNode may have waited already whether there will be something
            time.sleep(max(_POLL - (time.monotonic() - began), 0.0))


class Tasks:
    """Does the tasks of one SuperNode, one after another, each by a process that is forked for it.

    Args:
        client: of the SuperNode's Runtime API; it shows the token of the task at hand.
    """

    def __init__(self, client: Any) -> None:
        self._client, self._beat = client, 0.0
        self._app: Any = None

    def do(self) -> None:
        """Do the task at hand.

        Raises:
            Abandoned: the SuperNode has given it up.
            httpx.HTTPError: it does not answer, or does not know the token.
        """
        self._beat = time.monotonic()
        task = self._call("PullTaskInput", PullTaskInputRequest())
        pulled = self._call("PullMessages", PullAppMessagesRequest())
        while not pulled.messages_list and time.monotonic() - self._beat < _PAUSE:  # a task is there before its message
            time.sleep(_SOON)
            pulled = self._call("PullMessages", PullAppMessagesRequest())
        if not pulled.messages_list:
            self._call("PushTaskOutput", PushTaskOutputRequest(sub_status=SubStatus.FAILED, details="no message"))
            return
        message = pulled.messages_list[0]
        about = {"node": Node(node_id=message.metadata.dst_node_id), "run_id": message.metadata.run_id}
        announced, *objects, output = self._answer(task, message, pulled.message_object_trees[0], about)
        session = self._call("PushMessages", PushAppMessagesRequest.FromString(announced))
        wanted = set(session.objects_to_push)
        for content in objects:
            made = PushObjectRequest.FromString(content)
            if made.object_id in wanted:
                made.MergeFrom(PushObjectRequest(**about, session_id=session.session_id))
                self._call("PushObject", made)
        self._call("PushTaskOutput", PushTaskOutputRequest.FromString(output))

    def _answer(
        self, task: PullTaskInputResponse, message: MessageProto, tree: ObjectTree, about: dict[str, Any]
    ) -> list[bytes]:
        """Have a ClientApp process reply; what comes of it in frames, an error where it is killed."""
        confirm = ConfirmMessageReceivedRequest(**about, message_object_id=tree.object_id)
        confirmed, reason = False, ""
        for _ in range(2):
            place, reads, frames = self._begin(task), False, list[bytes]()
            try:
                with place:
                    self._wait(place)
                    reads = place.recv(1) == warm.READY
                    warm.send(
                        place, PullTaskInputResponse(context=task.context, task_id=task.task_id).SerializeToString()
                    )
                    for one in iterate_object_tree(tree):
                        content = self._pull(one.object_id, about)
                        warm.send(
                            place,
                            PushObjectRequest(object_id=one.object_id, object_content=content).SerializeToString(),
                        )
                    warm.send(place, b"")
                    self._call("ConfirmMessageReceived", confirm)
                    confirmed = True
                    self._wait(place)
                    frames = warm.received(place)
            except (EOFError, OSError, ValueError):
                frames = []
            finally:
                reason = self._app.ended()
            if frames:
                return frames
            if reads:  # else its app's process was about to end: there will be another
                break
        if not confirmed:
            self._call("ConfirmMessageReceived", confirm)
        return _error(message, task.task_id, f"The ClientApp was {reason}.")

    def _begin(self, task: PullTaskInputResponse) -> socket.socket:
        """A process for a message, forked from its app's."""
        place: socket.socket | None = None
        if self._app is not None and self._app.hash == task.fab.hash_str:
            with contextlib.suppress(OSError):  # its process has ended
                place = self._app.begin()
        if place is None:
            if self._app is not None:
                self._app.close()
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

    def _wait(self, place: socket.socket) -> None:
        """Wait until a ClientApp says something, or is gone."""
        while not select.select([place], [], [], _BEAT)[0]:
            self._say_alive()

    def _say_alive(self) -> None:
        """Tell the SuperNode that its task is in work, if it has not just been told."""
        if time.monotonic() - self._beat < _BEAT:
            return
        self._beat = time.monotonic()
        try:
            known = self._client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success
        except httpx.TransportError:  # it may be about to come back
            return
        except httpx.HTTPStatusError:  # another one is there that knows nothing of it
            known = False
        if not known:
            raise Abandoned

    def _call(self, name: str, request: Any) -> Any:
        """Ask the SuperNode for something about the task; it may be slow, or away for a moment."""
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                return getattr(self._client, name)(request)
            except httpx.TransportError:
                if time.monotonic() > until:
                    raise
                time.sleep(_PAUSE)


def _error(asked: MessageProto, task: int, reason: str) -> list[bytes]:
    """The reply in place of a ClientApp that is gone."""
    message = message_from_proto(asked)
    TaskIdentity.task_id, TaskIdentity.run_id = task, message.metadata.run_id
    TaskIdentity.node_id = message.metadata.dst_node_id
    announced, objects = warm.reply_frames(Message(Error(ErrorCode.CLIENT_APP_CRASHED, reason), reply_to=message))
    output = PushTaskOutputRequest(sub_status=SubStatus.FAILED, details=reason)
    return [one.SerializeToString() for one in (announced, *objects, output)]


if __name__ == "__main__":
    main()
