"""A bundle's ClientApp that stays loaded: a process is forked from it for each message.

Loading the app is most of what a short message costs. It is done once for a bundle, in a process that does nothing
else; each message has a process of its own all the same, and what that one changes ends with it. It knows no token and
has no connection: it is handed the request through a socket, and hands the reply back. So nobody outside ever sees half
a reply, whatever happens to it.

Loaded by the program `executor`, by path; nothing of ours is imported here.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from flwr.app import Context, Error, Message
from flwr.app.message import remove_content_from_message
from flwr.cli.install import install_from_fab
from flwr.clientapp import ClientApp
from flwr.clientapp.client_app import LoadClientAppError
from flwr.clientapp.utils import get_load_client_app_fn
from flwr.common.config import get_project_dir
from flwr.common.constant import ErrorCode, SubStatus
from flwr.common.serde import context_from_proto, context_to_proto, message_to_proto
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.runtime_pb2 import PullTaskInputResponse, PushAppMessagesRequest, PushTaskOutputRequest
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, no_object_id_recompute
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity
from flwr.supercore.utils import get_flwr_home

READY = b"r"  # what a message's process says first: from now on it reads
_IDLE = 900.0  # seconds without a message after which an app's memory is given back
_MOST = 1 << 31  # bytes of a frame; protobuf's own limit
_CHUNK = 1 << 22


def fork(work: Callable[..., None], *arguments: Any) -> int:
    """Do some work in a child, which never returns from here; the child's process id."""
    pid = os.fork()
    if not pid:
        _do_and_leave(work, *arguments)
    return pid


def _do_and_leave(work: Callable[..., None], *arguments: Any) -> NoReturn:
    code = 1
    try:
        work(*arguments)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


class WarmApp:
    """A bundle's app, in a process that ends when this object is closed, or its process is gone.

    Args:
        task: of the first message.
    """

    def __init__(self, task: PullTaskInputResponse) -> None:
        self.hash = task.fab.hash_str
        self._place, theirs = socket.socketpair()
        fork(_be_app, theirs, self._place, task)
        theirs.close()

    def begin(self) -> socket.socket:
        """Fork a process for a message; the socket through which it gets it.

        Raises:
            OSError: the app's process is gone.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._place, [b"m"], [theirs.fileno()])
            except OSError:
                ours.close()
                raise
        return ours

    def ended(self) -> str:
        """How the last message's process ended, in words, once it has."""
        with contextlib.suppress(OSError):
            if status := self._place.recv(16):
                code = int(status)
                return f"killed by signal {-code}" if code < 0 else f"ended by exit code {code}"
        return "lost"

    def close(self) -> None:
        """Let the app's process end."""
        self._place.close()


def send(place: socket.socket, content: bytes) -> None:
    """Send one frame."""
    place.sendall(len(content).to_bytes(8, "big"))
    place.sendall(content)


def receive(place: socket.socket) -> bytes:
    """Receive one frame.

    Raises:
        EOFError: the other end is gone.
        ValueError: it is larger than frames are.
    """
    size = int.from_bytes(_exactly(place, 8), "big")
    if size > _MOST:
        raise ValueError(f"a frame of {size} bytes")
    return _exactly(place, size)


def received(place: socket.socket) -> list[bytes]:
    """All frames of a reply: what announces it, its objects, the task's output."""
    frames = [receive(place)]
    while frame := receive(place):
        frames.append(frame)
    return [*frames, receive(place)]


def _exactly(place: socket.socket, size: int) -> bytes:
    """So many bytes; memory grows with what has come, not with what was announced."""
    content = bytearray()
    while len(content) < size:
        part = place.recv(min(size - len(content), _CHUNK))
        if not part:
            raise EOFError("the other end of a message's socket is gone")
        content += part
    return bytes(content)


def reply_frames(reply: Message) -> tuple[PushAppMessagesRequest, Iterator[PushObjectRequest]]:
    """A reply as flwr hands it over: what says that there is one, and its objects."""
    reply.metadata.__dict__["_message_id"] = reply.object_id
    with no_object_id_recompute():
        announced = PushAppMessagesRequest(
            messages_list=[message_to_proto(remove_content_from_message(reply))],
            message_object_trees=[get_object_tree(reply)],
        )
        objects = get_all_nested_objects(reply)

    def contents() -> Iterator[PushObjectRequest]:
        with no_object_id_recompute():
            for name in list(objects):
                yield PushObjectRequest(object_id=name, object_content=objects.pop(name).deflate())

    return announced, contents()


def _be_app(place: socket.socket, unwanted: socket.socket, task: PullTaskInputResponse) -> None:
    """Load the app and fork a process for each message, until nobody can ask any more."""
    unwanted.close()
    app: ClientApp | Exception
    try:
        app = _load(task)
    except Exception as error:
        app = error
    task.fab.content = b""
    gc.collect()
    gc.freeze()  # the collector must not touch, and so copy, what messages' processes share
    place.settimeout(_IDLE)
    with contextlib.suppress(TimeoutError):
        while True:
            asked, numbers, _, _ = socket.recv_fds(place, 1, 1)
            if not asked:
                return
            pid = fork(_be_client, numbers[0], place, app)
            os.close(numbers[0])
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            place.sendall(b"%d" % code)
            if isinstance(app, Exception):  # the next message may have better luck
                return


def _load(task: PullTaskInputResponse) -> ClientApp:
    """Unpack a bundle, if it is not there, and import its app."""
    run, fab = task.run, task.fab
    home, folder = get_flwr_home(), get_project_dir(run.fab_id, run.fab_version, fab.hash_str)
    load = get_load_client_app_fn("", None, True)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        # The other nodes of this host wait, and then find what is compiled here.
        with (home / "loading.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                # In one step: flwr would use what is half there as it is.
                with tempfile.TemporaryDirectory(dir=home, prefix="unpacking-") as staged:
                    install_from_fab(fab.content, Path(staged), skip_prompt=True).rename(folder)
                return load(run.fab_id, run.fab_version, fab.hash_str)
    return load(run.fab_id, run.fab_version, fab.hash_str)


def _be_client(number: int, unwanted: socket.socket, app: ClientApp | Exception) -> None:
    """Be the process of one message."""
    unwanted.close()
    place = socket.socket(fileno=number)
    place.sendall(READY)
    task = PullTaskInputResponse.FromString(receive(place))
    contents: dict[str, bytes] = {}
    while frame := receive(place):
        one = PushObjectRequest.FromString(frame)
        contents[one.object_id] = one.object_content
    threading.Thread(target=_watch, args=(place,), daemon=True).start()
    context = context_from_proto(task.context)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = task.task_id, context.run_id, context.node_id
    message = inflate_object_from_contents(name := one.object_id, contents)
    assert isinstance(message, Message)
    message.metadata.__dict__["_message_id"] = name  # it is no part of what is sent
    reply, status, details = _reply(app, message, context)
    announced, objects = reply_frames(reply)
    send(place, announced.SerializeToString())
    for made in objects:
        send(place, made.SerializeToString())
    send(place, b"")
    output = PushTaskOutputRequest(context=context_to_proto(context), sub_status=status, details=details)
    send(place, output.SerializeToString())


def _reply(app: ClientApp | Exception, message: Message, context: Context) -> tuple[Message, str, str]:
    """The app's reply, or an error, as flwr's ClientApp process has them; with what becomes of the task."""
    try:
        if isinstance(app, Exception):
            raise app
        return app(message=message, context=context), SubStatus.COMPLETED, ""
    except Exception as error:
        traceback.print_exc()
        code, reason = ErrorCode.CLIENT_APP_RAISED_EXCEPTION, f"{type(error)}:<'{error}'>"
        if isinstance(error, LoadClientAppError):
            code = ErrorCode.LOAD_CLIENT_APP_EXCEPTION
            reason = "An exception was raised when attempting to load `ClientApp`"
        return Message(Error(code, reason), reply_to=message), SubStatus.FAILED, reason


def _watch(place: socket.socket) -> None:
    """End this process when nobody waits for its reply any more."""
    with contextlib.suppress(OSError):
        place.recv(1)
    os._exit(1)
