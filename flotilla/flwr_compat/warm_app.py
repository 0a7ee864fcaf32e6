"""A bundle's ClientApp that stays loaded: a process is forked from it for each message.

Loading the app is most of what a short message costs. It is done once for a bundle, in a process that does nothing
else (`load_app.py`); each message has a process of its own all the same, and what that one changes ends with it. It is
handed the request through a socket, and hands the reply back. So nobody outside ever sees half a reply, whatever
happens to it. An app that cannot be forked from gets one message: its process is then the message's too, and the next
has another, as with Flower's own.

All these processes are forked from the executor, during the first message for a bundle. They have none of its
connections. What its memory held at that time, the token of that message and the executor's secret too, is in theirs:
they run as the same user, who could read either in any case.

Loaded by the program `executor`, by path; nothing of ours is imported here.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import stat
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from flwr.app import Context, Error, Message
from flwr.app.message import remove_content_from_message
from flwr.clientapp import ClientApp
from flwr.clientapp.client_app import LoadClientAppError
from flwr.common.constant import ErrorCode, SubStatus
from flwr.common.serde import context_from_proto, context_to_proto, message_to_proto
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.runtime_pb2 import PullTaskInputResponse, PushAppMessagesRequest, PushTaskOutputRequest
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, no_object_id_recompute
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

# The executor has loaded it; None where somebody else only looks at what is in this package.
load_app: Any = sys.modules.get("_flotilla_load_app")

READY, READ = b"r", b"d"  # what a message's process says: from now on it reads; it has read all of its request
_IDLE = 900.0  # seconds without a message after which an app's memory is given back
_MOST = 1 << 31  # bytes of a frame; protobuf's own limit
_MOST_FRAMES, _MOST_OF_ALL = 1 << 16, 1 << 33  # of a reply, and their bytes
_CHUNK = 1 << 22


def fork(work: Callable[..., None], *arguments: Any) -> int:
    """Do some work in a child, which never returns from here; the child's process id."""
    _flush()  # else what is not written yet is written by the child as well
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
    _flush()
    os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


class WarmApp:
    """A bundle's app, in a process that ends when this object is closed, or its process is gone.

    Args:
        task: of the first message.

    Raises:
        OSError: there can be no other process, or socket.
    """

    def __init__(self, task: PullTaskInputResponse) -> None:
        self.hash = task.fab.hash_str
        self._place, theirs = socket.socketpair()
        with theirs:
            try:
                self._pid = fork(_be_app, theirs, task)
            except OSError:
                self.close()
                raise

    def fileno(self) -> int:
        """Of what is readable when the last message's process has ended."""
        return self._place.fileno()

    def gone(self) -> bool:
        """Whether the app's own process has ended."""
        try:
            return os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

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

    def ended(self, seconds: float) -> str:
        """How the last message's process ended, in words; "" if it has not after so many seconds."""
        until = time.monotonic() + seconds
        with contextlib.suppress(OSError, ValueError):
            if select.select([self._place], [], [], seconds)[0] and (status := self._place.recv(16)):
                return _in_words(int(status))
        while not self.gone():
            if time.monotonic() > until:
                return ""
            time.sleep(0.01)
        with contextlib.suppress(ChildProcessError):  # the message's process was the app's, or both are gone
            return _in_words(os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1]))
        return "lost"

    def close(self) -> None:
        """Let the app's process end."""
        self._place.close()

    def kill(self) -> None:
        """End it, whatever it does."""
        self.close()
        if not self.gone():
            os.kill(self._pid, signal.SIGKILL)


def _in_words(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"ended by exit code {code}"


def send(place: socket.socket, content: bytes) -> None:
    """Send one frame."""
    place.sendall(len(content).to_bytes(8, "big"))
    place.sendall(content)


def receive(place: socket.socket, wait: Callable[[], None] = lambda: None) -> bytes:
    """Receive one frame, waiting before each of its parts.

    Raises:
        EOFError: the other end is gone.
        ValueError: it is larger than frames are.
    """
    size = int.from_bytes(_exactly(place, 8, wait), "big")
    if size > _MOST:
        raise ValueError(f"a frame of {size} bytes")
    return _exactly(place, size, wait)


def received(place: socket.socket, wait: Callable[[], None] = lambda: None) -> list[bytes]:
    """All frames of a reply: what announces it, its objects, the task's output.

    Raises:
        EOFError: the other end is gone.
        ValueError: there are more of them, or more bytes, than a reply has.
    """
    frames = [receive(place, wait)]
    size = len(frames[0])
    while frame := receive(place, wait):
        frames.append(frame)
        size += len(frame)
        if len(frames) > _MOST_FRAMES or size > _MOST_OF_ALL:
            raise ValueError(f"{len(frames)} frames of {size} bytes")
    return [*frames, receive(place, wait)]


def _exactly(place: socket.socket, size: int, wait: Callable[[], None]) -> bytes:
    """So many bytes; memory grows with what has come, not with what was announced."""
    content = bytearray()
    while len(content) < size:
        wait()
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


def _be_app(place: socket.socket, task: PullTaskInputResponse) -> None:
    """Load the app and fork a process for each message, until nobody can ask any more."""
    _let_go(place.fileno())
    loaded = load_app.load(task)
    task.fab.content = b""
    gc.collect()
    gc.freeze()  # the collector must not touch, and so copy, what messages' processes share
    place.settimeout(_IDLE)
    with contextlib.suppress(TimeoutError):
        while True:
            asked, numbers, _, _ = socket.recv_fds(place, 1, 1)
            if not asked:
                return
            if isinstance(loaded.app, Exception) or not loaded.forkable:  # the next message is another process's
                _be_client(numbers[0], loaded.app)
                return
            pid = fork(_be_forked_client, numbers[0], place, loaded)
            os.close(numbers[0])
            place.sendall(b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _let_go(but: int) -> None:
    """Leave the executor's connections to it: these numbers, but for the standard ones, are of nothing here."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in map(int, os.listdir("/dev/fd")):
        with contextlib.suppress(OSError):  # that of the listing itself
            if number > 2 and number != but and stat.S_ISSOCK(os.fstat(number).st_mode):
                os.dup2(nothing, number, inheritable=False)  # not closed: there are objects that hold the number
    os.close(nothing)


def _be_forked_client(number: int, unwanted: socket.socket, loaded: Any) -> None:
    unwanted.close()
    loaded.settle()
    _be_client(number, loaded.app)


def _be_client(number: int, app: ClientApp | Exception) -> None:
    """Be the process of one message."""
    place = socket.socket(fileno=number)
    place.settimeout(None)  # an app may have set a default
    place.sendall(READY)
    task = PullTaskInputResponse.FromString(receive(place))
    contents: dict[str, bytes] = {}
    while frame := receive(place):
        one = PushObjectRequest.FromString(frame)
        contents[one.object_id] = one.object_content
    place.sendall(READ)
    done = threading.Event()
    threading.Thread(target=_watch, args=(place, done), daemon=True).start()
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
    _flush()
    done.set()
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


def _watch(place: socket.socket, done: threading.Event) -> None:
    """End this process when nobody waits for its reply any more."""
    with contextlib.suppress(OSError):
        place.recv(1)
    if not done.is_set():
        os._exit(1)
