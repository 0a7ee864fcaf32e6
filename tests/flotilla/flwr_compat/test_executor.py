"""A message's process, forked from its app's: what it replies, and what becomes of it when something dies."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.common.serde import context_from_proto, context_to_proto, message_from_proto
from flwr.proto.fab_pb2 import Fab
from flwr.proto.message_pb2 import ConfirmMessageReceivedResponse, PullObjectResponse, PushObjectResponse
from flwr.proto.run_pb2 import Run
from flwr.proto.runtime_pb2 import (
    PullAppMessagesResponse,
    PullTaskInputResponse,
    PushAppMessagesResponse,
    PushTaskOutputResponse,
    SendTaskHeartbeatResponse,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from flotilla.flwr_compat import executor
from flotilla.flwr_compat.bundle import build_bundle
from flotilla.flwr_compat.identity import assume_identity
from tests.flotilla.flwr_compat.test_behaviour import APP

CODE = """
import os, signal, time
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()
loaded = os.getpid()
calls = 0

@app.train()
def train(message, context):
    global calls
    calls += 1
    what = message.content["config"]["what"]
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "fail":
        raise RuntimeError("no")
    if what == "sleep":
        time.sleep(60)
    context.state["seen"] = ConfigRecord({"what": what})
    said = {"loaded": loaded, "process": os.getpid(), "calls": calls, "large": b"x" * 9_000_000}
    return Message(RecordDict({"config": ConfigRecord(said)}), reply_to=message)
"""

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # in flwr's own builder


class Node:
    """A SuperNode's Runtime API with one task at a time.

    Args:
        bundle: of the app.
    """

    def __init__(self, bundle: bytes) -> None:
        name = hashlib.sha256(bundle).hexdigest()
        self._input = PullTaskInputResponse(
            context=context_to_proto(Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})),
            run=Run(run_id=1, fab_id="them/theirs", fab_version="1.0.0", fab_hash=name),
            fab=Fab(hash_str=name, content=bundle),
            task_id=7,
        )
        self._asked: Any = None
        self._objects: dict[str, bytes] = {}
        self.confirmed: list[str] = []
        self.known = True
        self.calls: list[str] = []
        self.late = 0

    def ask(self, what: str) -> None:
        """Have a message ready."""
        message = Message(RecordDict({"config": ConfigRecord({"what": what})}), dst_node_id=2, message_type="train")
        self._asked, objects = executor.warm.reply_frames(message)
        self._objects = {one.object_id: one.object_content for one in objects}
        self._announced: Any = None
        self._pushed: dict[str, bytes] = {}
        self.output: Any = None

    def reply(self) -> Message:
        """What came, all of it, checked by flwr's own reading."""
        (proto,), (tree,) = self._announced.messages_list, self._announced.message_object_trees
        if proto.HasField("error"):
            return message_from_proto(proto)
        found = inflate_object_from_contents(tree.object_id, dict(self._pushed))
        assert isinstance(found, Message)
        return found

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        self.calls.append(name)
        called: Callable[[Any], Any] = getattr(self, f"_{name}")
        return called

    def _PullTaskInput(self, _: Any) -> PullTaskInputResponse:
        copy = PullTaskInputResponse()
        copy.CopyFrom(self._input)
        return copy

    def _PullMessages(self, _: Any) -> PullAppMessagesResponse:
        if self.late:
            self.late -= 1
            return PullAppMessagesResponse()
        return PullAppMessagesResponse(
            messages_list=self._asked.messages_list, message_object_trees=self._asked.message_object_trees
        )

    def _PullObject(self, request: Any) -> PullObjectResponse:
        content = self._objects.get(request.object_id)
        return PullObjectResponse(
            object_found=content is not None, object_available=True, object_content=content or b""
        )

    def _ConfirmMessageReceived(self, request: Any) -> ConfirmMessageReceivedResponse:
        self.confirmed.append(request.message_object_id)
        return ConfirmMessageReceivedResponse()

    def _PushMessages(self, request: Any) -> PushAppMessagesResponse:
        self._announced = request
        names, todo = [], list(request.message_object_trees)
        while todo:
            tree = todo.pop()
            names.append(tree.object_id)
            todo += tree.children
        return PushAppMessagesResponse(objects_to_push=names, session_id="s")

    def _PushObject(self, request: Any) -> PushObjectResponse:
        assert (request.session_id, request.run_id, request.node.node_id) == ("s", 1, 2)
        self._pushed[request.object_id] = request.object_content
        return PushObjectResponse(stored=True)

    def _PushTaskOutput(self, request: Any) -> PushTaskOutputResponse:
        self.output = request
        if request.HasField("context"):
            self._input.context.CopyFrom(request.context)
        return PushTaskOutputResponse()

    def _SendTaskHeartbeat(self, _: Any) -> SendTaskHeartbeatResponse:
        return SendTaskHeartbeatResponse(success=self.known)


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assume_identity()
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "home"))


def bundle(folder: Path, code: str) -> bytes:
    folder.mkdir()
    (folder / "pyproject.toml").write_text(APP)
    (folder / "LICENSE").write_text("none")
    (folder / "theirs.py").write_text(code)
    return build_bundle(folder, {})


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(bundle(tmp_path / "app", CODE))


@pytest.fixture
def tasks(node: Node) -> Iterator[Any]:
    made = executor.node_tasks.Tasks(node)
    yield made
    if made._app is not None:
        made._app.close()


def test_a_process_for_each_message_and_one_app(node: Node, tasks: Any) -> None:
    said = []
    for what in ("one", "two"):
        node.ask(what)
        tasks.do()
        said.append(node.reply().content["config"])
        assert (node.output.sub_status, node.output.details) == ("completed", "")
        assert context_from_proto(node.output.context).state["seen"]["what"] == what
    assert said[0]["loaded"] == said[1]["loaded"] != os.getpid()
    assert len({said[0]["process"], said[1]["process"], said[0]["loaded"]}) == 3
    assert [one["calls"] for one in said] == [1, 1]  # what a message changes ends with it
    assert len(node.confirmed) == 2


def test_a_task_that_is_there_before_its_message(node: Node, tasks: Any) -> None:
    node.ask("one")
    node.late = 2
    tasks.do()
    assert node.reply().content["config"]["calls"] == 1


def test_another_bundle_is_another_app(node: Node, tasks: Any, tmp_path: Path) -> None:
    node.ask("one")
    tasks.do()
    first = node.reply().content["config"]["loaded"]
    other = Node(bundle(tmp_path / "other", CODE.replace("calls = 0", "calls = 10")))
    tasks._client = other
    other.ask("one")
    tasks.do()
    assert other.reply().content["config"]["calls"] == 11
    assert psutil.wait_procs([psutil.Process(first)] if psutil.pid_exists(first) else [], timeout=10)[1] == []


def test_one_that_is_killed_costs_its_reply_and_nothing_else(node: Node, tasks: Any) -> None:
    node.ask("die")
    tasks.do()
    assert (node.reply().error.code, node.reply().error.reason) == (8, "The ClientApp was killed by signal 9.")
    assert node.output.sub_status == "failed"
    assert not node.output.HasField("context")
    node.ask("two")
    tasks.do()
    assert node.reply().content["config"]["calls"] == 1


def test_one_that_dies_in_the_middle_of_its_reply(node: Node, tasks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SuperNode, which would wait for the rest for ever, hears nothing of that reply."""
    send, test, sent = executor.warm.send, os.getpid(), []

    def send_some(place: Any, content: bytes) -> None:
        if os.getpid() != test:
            sent.append(content)
            if len(sent) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        send(place, content)

    monkeypatch.setattr(executor.warm, "send", send_some)
    node.ask("one")
    tasks.do()
    assert (node.reply().error.code, node.reply().error.reason) == (8, "The ClientApp was killed by signal 9.")
    assert node.calls.count("PushMessages") == 1


def test_errors_are_flwrs(node: Node, tasks: Any) -> None:
    node.ask("fail")
    tasks.do()
    assert (node.reply().error.code, node.reply().error.reason) == (2, "<class 'RuntimeError'>:<'no'>")


def test_an_app_that_cannot_be_loaded_is_tried_again(tasks: Any, tmp_path: Path) -> None:
    node = tasks._client = Node(bundle(tmp_path / "bad", "from flwr.clientapp import ClientApp\napp = 3\n"))
    for _ in range(2):
        node.ask("one")
        tasks.do()
        assert node.reply().error.code == 1
        assert node.output.sub_status == "failed"


def test_an_app_whose_process_is_gone_is_loaded_again(node: Node, tasks: Any) -> None:
    node.ask("one")
    tasks.do()
    loaded = node.reply().content["config"]["loaded"]
    assert isinstance(loaded, int)
    os.kill(loaded, signal.SIGKILL)
    node.ask("two")
    tasks.do()
    assert node.reply().content["config"]["calls"] == 1


def test_who_has_no_supernode_any_more_ends(node: Node, tasks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor.node_tasks, "_BEAT", 0.2)
    node.ask("sleep")
    node.known = False
    began = time.monotonic()
    with pytest.raises(executor.node_tasks.Abandoned):
        tasks.do()
    assert time.monotonic() - began < 30
    assert all(not app.children() for app in psutil.Process().children())


def test_a_task_says_that_it_is_alive(node: Node, tasks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor.node_tasks, "_BEAT", 0.1)
    node.ask("sleep")
    threading.Timer(2.0, lambda: setattr(node, "known", False)).start()
    with pytest.raises(executor.node_tasks.Abandoned):
        tasks.do()
    assert node.calls.count("SendTaskHeartbeat") > 3
