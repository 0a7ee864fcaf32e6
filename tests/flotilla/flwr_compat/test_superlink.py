"""The SuperLink's held questions: answered when there is something, whole; nothing is taken for who has gone."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.node_pb2 import Node

from flotilla.flwr_compat import superlink

NODE = 7
FOREVER = 30.0


def request(node: int = NODE) -> dict[str, Any]:
    body = PullMessagesRequest(node=Node(node_id=node)).SerializeToString()
    return {"type": "http.request", "body": body, "more_body": False}


class Asker:
    """A connection: what it sends, and when it is gone."""

    def __init__(self, *sent: dict[str, Any]) -> None:
        self.sent, self.gone = list(sent or [request()]), asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        if self.sent:
            return self.sent.pop(0)
        await self.gone.wait()
        return {"type": "http.disconnect"}


class App:
    """Counts what it is asked, and keeps the bodies that it read."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def __call__(
        self, scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]], send: Any
    ) -> None:
        body = b""
        while True:
            part = await receive()
            body += part.get("body", b"")
            if not part.get("more_body"):
                break
        self.bodies.append(body)


def scope(path: str = superlink._NODES) -> dict[str, Any]:
    return {"type": "http", "path": path}


async def told(news: superlink.News, whom: int | str) -> None:
    """Somebody is known from now on, and has nothing to fetch."""
    news._loop = asyncio.get_running_loop()
    news.tell(whom)
    await asyncio.sleep(0)
    await news.wait(whom, 0.0, lambda: asyncio.sleep(FOREVER))


def test_who_was_never_told_of_anything_does_not_wait() -> None:
    async def ask() -> None:
        app, news = App(), superlink.News()
        began = time.monotonic()
        await superlink.Holding(app, news)(scope(), Asker().receive, None)
        assert app.bodies == [request()["body"]]
        assert time.monotonic() - began < 2

    asyncio.run(ask())


@pytest.mark.parametrize("objects", [0, 2])
def test_a_question_is_answered_when_a_message_is_there_with_all_of_its_objects(objects: int) -> None:
    async def ask() -> None:
        app, news = App(), superlink.News()
        await told(news, NODE)
        question = asyncio.ensure_future(superlink.Holding(app, news)(scope(), Asker().receive, None))
        news.begin("other", [(NODE + 1, [])])
        names = [f"object-{number}" for number in range(objects)]
        to_come = [(NODE + 2, ["never"]), (NODE, names)]
        pushing = threading.Thread(target=news.begin, args=("push", to_come))  # flwr's handlers have threads
        pushing.start()
        pushing.join()
        for name in names:
            await asyncio.sleep(0.05)
            assert not app.bodies
            news.came("push", name)
            news.came("push", names[0])  # again, as where the answer to the first was lost
        await asyncio.wait_for(question, 5)
        assert app.bodies == [request()["body"]]

    asyncio.run(ask())


def test_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(superlink._HOLD, superlink._SERVER, 0.2)

    async def ask() -> None:
        app, news = App(), superlink.News()
        await told(news, superlink._REPLIES)
        began = time.monotonic()
        await superlink.Holding(app, news)(scope(superlink._SERVER), Asker().receive, None)
        assert 0.15 < time.monotonic() - began < 5
        assert len(app.bodies) == 1

    asyncio.run(ask())


def test_nothing_is_taken_for_an_asker_who_has_gone() -> None:
    async def ask() -> None:
        app, news, asker = App(), superlink.News(), Asker()
        await told(news, NODE)
        question = asyncio.ensure_future(superlink.Holding(app, news)(scope(), asker.receive, None))
        await asyncio.sleep(0.05)
        asker.gone.set()
        await asyncio.wait_for(question, 5)
        news.begin("push", [(NODE, [])])
        await asyncio.sleep(0.05)
        assert not app.bodies
        await asyncio.wait_for(superlink.Holding(app, news)(scope(), Asker().receive, None), 2)  # who comes after it
        assert len(app.bodies) == 1

    asyncio.run(ask())


@pytest.mark.parametrize(
    "sent",
    [
        [{"type": "http.request", "body": b"\xff\xff", "more_body": False}],
        [{"type": "http.request", "body": b"\x00" * (superlink._MOST + 1), "more_body": True}, request()],
        [{"type": "http.disconnect"}],
    ],
)
def test_what_is_no_question_is_passed_on_as_it_came(sent: list[dict[str, Any]]) -> None:
    async def ask() -> None:
        app, news = App(), superlink.News()
        await told(news, NODE)
        expected = b"".join(part.get("body", b"") for part in sent)
        await asyncio.wait_for(superlink.Holding(app, news)(scope(), Asker(*sent).receive, None), 2)
        assert app.bodies == [expected]

    asyncio.run(ask())


def test_handlers_tell_what_comes() -> None:
    heard: list[tuple[object, ...]] = []
    news: Any = SimpleNamespace(
        begin=lambda push, messages: heard.append(("begin", push, [(whom, set(of)) for whom, of in messages])),
        came=lambda push, one: heard.append(("came", push, one)),
        fetched=lambda whom: heard.append(("fetched", whom)),
    )

    def pushed(session: str, objects: list[str]) -> Callable[..., Any]:
        return lambda request, *_, **__: SimpleNamespace(session_id=session, objects_to_push=objects)

    there = [["m"], []]
    nodes = SimpleNamespace(
        pull_messages=lambda request, state, store: SimpleNamespace(messages_list=there.pop(0)),
        push_messages=pushed("up", ["o"]),
        push_object=lambda request, state: "stored",
    )
    server = SimpleNamespace(
        push_messages=pushed("down", ["o", "p"]), push_object=lambda request, state, task: "stored"
    )
    superlink.hear(news, nodes, server)
    question = SimpleNamespace(node=SimpleNamespace(node_id=NODE))
    nodes.pull_messages(request=question, state=None, store=None)
    nodes.pull_messages(request=question, state=None, store=None)
    nodes.push_messages(request=SimpleNamespace(), state=None)
    to = [SimpleNamespace(metadata=SimpleNamespace(dst_node_id=node)) for node in (3, 4)]

    def tree(name: str, *children: Any) -> Any:
        return SimpleNamespace(object_id=name, children=children)

    trees = [tree("one", tree("there", tree("o"))), tree("p", tree("o"))]
    server.push_messages(SimpleNamespace(messages_list=to, message_object_trees=trees), None, None)
    assert nodes.push_object(SimpleNamespace(session_id="up", object_id="o"), None) == "stored"
    assert server.push_object(SimpleNamespace(session_id="down", object_id="p"), None, None) == "stored"
    assert heard == [
        ("fetched", NODE),
        ("begin", "up", [("replies", {"o"})]),
        ("begin", "down", [(3, {"o"}), (4, {"o", "p"})]),
        ("came", "up", "o"),
        ("came", "down", "p"),
    ]


def test_who_has_more_to_fetch_does_not_wait_for_it() -> None:
    async def ask() -> None:
        app, news = App(), superlink.News()
        holding = superlink.Holding(app, news)
        await told(news, NODE)
        news.fetched(NODE)
        for push in "ab":
            news.begin(push, [(NODE, [])])
        for number in (1, 2):
            await asyncio.wait_for(holding(scope(), Asker().receive, None), 2)
            assert len(app.bodies) == number
            news.fetched(NODE)
            await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(holding(scope(), Asker().receive, None), 0.2)

    asyncio.run(ask())


def test_pushes_that_nobody_finishes_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superlink, "_OPEN", 3)
    news = superlink.News()
    for push in range(10):
        news.begin(str(push), [(NODE, ["o"])])
    assert list(news._open) == ["7", "8", "9"]
    news.came("0", "o")
    news.came("9", "o")
    assert list(news._open) == ["7", "8"]


def test_expired_claims_are_looked_for_once_a_second() -> None:
    at, done = 100.0, list[float]()
    cleanup = superlink.seldom(lambda state: done.append(at), lambda: at)
    for step in range(40):
        at = 100.0 + step / 16
        cleanup(None)
    assert done == [100.0, 101.0, 102.0]


def test_flwrs_handlers_are_what_is_patched() -> None:
    router = inspect.getsource(importlib.import_module("flwr.superlink.routers.fleet.router"))
    for name in ("pull_messages", "push_messages", "push_object"):  # looked up when they are called
        assert f"return fleet_handlers.{name}(" in router
    main = importlib.import_module("flwr.superlink.main")
    assert main._RUNTIME_HANDLERS is importlib.import_module("flwr.superlink.servicer.runtime.runtime_handlers")
    common = inspect.getsource(importlib.import_module("flwr.supercore.routers.runtime.router"))
    assert '@router.post("/pull-messages")' in common
    assert "return handlers.push_messages(request, state, task)" in common
    assert "return handlers.push_object(request, state, task)" in common
    start = inspect.getsource(importlib.import_module("flwr.superlink.cli.flower_superlink"))
    assert "uvicorn.run(\n        app=fastapi_app," in start
    state = inspect.getsource(importlib.import_module("flwr.supercore.sql_mixin"))
    assert "for pragma, value in SQLITE_PRAGMAS:" in state


def test_all_of_it_applies_and_the_options_are_flwrs() -> None:
    """In a process of its own: what it changes is the process's."""
    code = (
        "from flotilla.flwr_compat import superlink as s; s.be_quick();"
        "assert s.fleet_handlers.pull_messages.__module__ == s.__name__;"
        "assert s.runtime_handlers.push_messages.__module__ == s.__name__;"
        "assert s.uvicorn.run.__module__ == s.__name__;"
        "assert s.SqlCoreState._cleanup_expired_task_tokens.__module__ == s.__name__;"
        "assert s.sql_mixin.SQLITE_PRAGMAS[-1] == ('synchronous', 'OFF')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    said = subprocess.run(
        [sys.executable, "-P", superlink.__file__, "--help"], capture_output=True, text=True, check=True, timeout=300
    ).stdout
    assert "--database" in said
