"""What a fork takes along and what it does not, and what an app may do without harm to its executor."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from flwr.app import ConfigRecord

from flotilla.flwr_compat import executor
from flotilla.flwr_compat.identity import assume_identity
from tests.flotilla.flwr_compat.test_executor import Node, bundle

HEAD = """
import os, random, signal, socket, stat, sys, threading, time
import numpy as np, torch
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()
loaded = os.getpid()
"""
TRAIN = """
@app.train()
def train(message, context):
    said = {"same": loaded == os.getpid()}
    %s
    return Message(RecordDict({"config": ConfigRecord(said)}), reply_to=message)
"""

# A thread of Python's: libgomp's would be waited for here too where the process that runs the tests has begun some.
THREAD = "import threading\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()"

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # in flwr's own builder
Doing = Callable[..., Node]


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assume_identity()
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "home"))


@pytest.fixture
def doing(tmp_path: Path) -> Iterator[Doing]:
    """Do messages with an app; the node of each afterwards."""
    made: list[Any] = []

    def do(train: str = "", head: str = "", **how: Any) -> Node:
        if not made:
            node = Node(bundle(tmp_path / "app", HEAD + head + TRAIN % "\n    ".join(train.splitlines())))
            made.append(executor.node_tasks.Tasks(node, how.get("alive")))
        (tasks,) = made
        for name, value in how.items():
            setattr(tasks._client, name, value)
        tasks._client.ask("it")
        # One that hangs is given up, which fails the test.
        late = threading.Timer(60, lambda: setattr(tasks._client, "known", False))
        late.start()
        try:
            tasks.do()
        finally:
            late.cancel()
        node = tasks._client
        assert isinstance(node, Node)
        return node

    yield do
    for tasks in made:
        if tasks._app is not None:
            tasks._app.kill()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor.node_tasks, "_BEAT", 0.1)


def said(node: Node) -> ConfigRecord:
    reply = node.reply()
    assert not reply.has_error(), reply.error
    record = reply.content["config"]
    assert isinstance(record, ConfigRecord)
    return record


def test_threads_are_those_that_a_process_of_its_own_would_have(doing: Doing, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [3]
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[-1])
    monkeypatch.setattr(torch, "set_num_threads", now.append)
    node = doing('said["n"] = [then, torch.get_num_threads()]', "then = torch.get_num_threads()")
    assert said(node) == {"same": False, "n": [1, 3]}


def test_an_app_that_has_threads_when_it_is_imported_is_not_forked_from(doing: Doing) -> None:
    """Who waits for one of them in a fork waits for ever."""
    for _ in range(2):
        assert said(doing("", THREAD)) == {"same": True}


def test_nor_one_that_has_begun_to_use_cuda(doing: Doing) -> None:
    node = doing("", "import torch.cuda\ntorch.cuda.is_initialized = lambda: True")
    assert said(node) == {"same": True}


def test_whether_there_is_a_gpu_is_asked_without_beginning_to_use_it(doing: Doing) -> None:
    name = "PYTORCH_NVML_BASED_CUDA_CHECK"
    head = f"then = os.environ['{name}']"
    assert said(doing(f'said["n"] = [then, str(os.environ.get("{name}"))]', head))["n"] == ["1", "None"]


DRAW = 'said["n"] = [random.random(), float(np.random.rand()), float(torch.rand(1))]'


def test_messages_draw_other_numbers(doing: Doing) -> None:
    one, two = (said(doing(DRAW))["n"] for _ in range(2))
    assert isinstance(one, list)
    assert isinstance(two, list)
    assert all(a != b for a, b in zip(one, two, strict=True))


def test_but_for_an_app_that_seeds_when_it_is_imported(doing: Doing) -> None:
    head = "random.seed(1)\nnp.random.seed(seed=2)\ntorch.manual_seed(3)"
    one, two = (said(doing(DRAW, head))["n"] for _ in range(2))
    assert one == two


def test_none_of_the_executors_connections(doing: Doing) -> None:
    import socket

    head = """
import fcntl
def sockets():
    return sum(stat.S_ISSOCK(os.fstat(n).st_mode) for n in range(3, 256) if os.path.exists(f"/proc/self/fd/{n}"))
then = sockets()
"""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert said(doing('said["n"] = [then, sockets()]', head))["n"] == [1, 1]  # to be asked; the message's


def test_last_words_are_not_lost(doing: Doing, tmp_path: Path) -> None:
    words = tmp_path / "words"
    head = f"""
print("begun", end=" ", file=(out := open({str(words)!r}, "a")))
class Slow:
    def write(self, text): return out.write(text)
    def flush(self): time.sleep(0.3); out.flush()
sys.stdout = Slow()
"""
    for _ in range(3):
        said(doing('print("said", end=" ")', head))
    assert words.read_text() == "begun said said said "


def test_alive_while_a_message_is_at_work(doing: Doing, tmp_path: Path, quick: None) -> None:
    alive = tmp_path / "alive"
    began = time.time()
    said(doing("time.sleep(1.5)", alive=alive))
    assert alive.stat().st_mtime > began + 0.5


BAD_FRAMES = {
    "no message": "send(place, b'\\xff\\xff')\n        send(place, b'')\n        send(place, b'')",
    "no announcement": "send(place, b'\\x7a\\x01x')\n        send(place, b'')\n        send(place, b'')",
    "a large one": "place.sendall((1 << 40).to_bytes(8, 'big'))",
    "many": "[send(place, b'x') for _ in range(1 << 17)]",
}


@pytest.mark.parametrize("frames", BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_what_is_no_reply_is_an_error(doing: Doing, frames: str) -> None:
    train = f"""import sys
warm = sys.modules["_flotilla_warm_app"]
send = warm.send
def frames(place, content):
    try:
        {frames}
    finally:
        os._exit(0)
warm.send = frames"""
    node = doing(train)
    assert node.reply().error.code == 8
    assert str(node.reply().error.reason).startswith("The ClientApp did not reply with a message: ")
    assert node.output.sub_status == "failed"


def test_no_process_for_it_is_an_error(doing: Doing, monkeypatch: pytest.MonkeyPatch) -> None:
    def fork(*_: Any) -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(executor.warm, "fork", fork)
        node = doing()
    assert str(node.reply().error.reason).startswith("The ClientApp could not be started: ")
    said(doing())


@pytest.mark.parametrize("head", ["", THREAD], ids=["forked", "alone"])
def test_one_that_is_killed_while_a_child_of_it_holds_the_socket(doing: Doing, tmp_path: Path, head: str) -> None:
    left = tmp_path / "left"
    train = f"""
if not (pid := os.fork()):
    time.sleep(120)
    os._exit(0)
open({str(left)!r}, "w").write(str(pid))
os.kill(os.getpid(), signal.SIGKILL)"""
    began = time.monotonic()
    try:
        node = doing(train, head)
        assert node.reply().error.reason == "The ClientApp was killed by signal 9."
        assert time.monotonic() - began < 50
    finally:
        os.kill(int(left.read_text()), 9)


def test_one_that_is_killed_before_it_has_read_costs_nothing(doing: Doing, tmp_path: Path) -> None:
    head = f"""
import pathlib
warm, once = sys.modules["_flotilla_warm_app"], pathlib.Path({str(tmp_path / "once")!r})
receive = warm.receive
def dying(place):
    if not once.exists():
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return receive(place)
warm.receive = dying
"""
    node = doing("", head)
    assert said(node) == {"same": False}
    assert (tmp_path / "once").exists()
    assert len(node.confirmed) == 1


def test_who_started_the_executor_is_gone(doing: Doing, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    doing('if os.path.exists("stop"): time.sleep(100)')
    began = time.monotonic()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    with pytest.raises(executor.node_tasks.Abandoned):
        doing_long(doing)
    assert time.monotonic() - began < 30


def doing_long(doing: Doing) -> None:
    Path("stop").touch()
    try:
        doing()
    finally:
        Path("stop").unlink()


def test_a_supernode_that_is_silent_for_long_is_gone(
    doing: Doing, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(_: Any) -> Any:
        raise httpx.ConnectError("no")

    monkeypatch.setattr(executor.node_tasks, "_PATIENCE", 1.0)
    began = time.monotonic()
    with pytest.raises(executor.node_tasks.Abandoned):
        doing("time.sleep(100)", _SendTaskHeartbeat=silent)
    assert 0.5 < time.monotonic() - began < 30


def test_what_who_was_killed_left_half_unpacked_goes(doing: Doing, tmp_path: Path) -> None:
    left = tmp_path / "home" / "unpacking-abc"
    left.mkdir(parents=True)
    (left / "half").touch()
    said(doing())
    assert not left.exists()


def test_one_app_that_is_imported_for_long_holds_up_no_other(doing: Doing, tmp_path: Path) -> None:
    import fcntl

    head = f"""
import fcntl
with open({str(tmp_path / "home" / "loading.lock")!r}, "a") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
"""
    assert fcntl  # the app's own
    said(doing("", head))
