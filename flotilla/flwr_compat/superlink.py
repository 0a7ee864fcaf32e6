"""`flower-superlink` that answers a question when it can: the same program and options, asked less often.

flwr 1.41's SuperNodes ask the SuperLink for a message and its ServerApp asks for replies, each again and again, and
most answers are "nothing yet"; a node that is told of a message asks for its objects until the last of them is there.
In a round of seconds these questions are a third of what the SuperLink is asked. Here

- a question for messages, or for replies, is answered when there is one with all of its objects, or after a while, as
  flwr would then;
- the database drops expired claims once a second, not (a transaction that writes) with every question;
- it does not wait for the disk: it is there for a SuperLink that is started again on a machine that kept running.

A node that this process has never had a message for is answered at once, as flwr does it; so is everything else. A
question waits without a thread, and where its asker has gone nothing is taken for it.

Started as a script in place of `flower-superlink`; nothing of ours is imported here.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator
from typing import Any

import uvicorn
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.supercore import sql_mixin
from flwr.supercore.corestate.sql_corestate import SqlCoreState
from flwr.superlink.cli.flower_superlink import flower_superlink
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.superlink.servicer.runtime import runtime_handlers

Received = dict[str, Any]
Receive = Callable[[], Awaitable[Received]]

_NODES, _SERVER = "/v1/fleet/pull-messages", "/v1/runtime/pull-messages"
_REPLIES = "replies"  # what the ServerApp waits for; a node waits for its own number
_HOLD = {_NODES: 3.0, _SERVER: 0.25}  # seconds; flwr's node sleeps three between two questions, our server 0.1 s
_MOST = 1 << 16  # bytes of a question
_CLEANUP = 1.0  # seconds between two looks for expired claims, which live for half a minute
_OPEN = 10_000  # pushes that are remembered, of those that were begun and never finished


class News:
    """Who has something to fetch: a node its messages, the ServerApp replies. Of any thread but for `wait`."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._events: dict[Hashable, asyncio.Event] = {}  # touched in the loop only
        self._ready: Counter[Hashable] = Counter()  # messages to fetch, as far as is known; in the loop only
        self._open: dict[str, list[tuple[Hashable, set[str]]]] = {}  # push → who gets a message, objects to come of it
        self._lock = threading.Lock()

    def begin(self, push: str, messages: Iterable[tuple[Hashable, Iterable[str]]]) -> None:
        """Messages were announced: for whom, and which of their objects come now."""
        with self._lock:
            self._open[push] = [(whom, set(objects)) for whom, objects in messages]
            while len(self._open) > _OPEN:
                del self._open[next(iter(self._open))]
        self._look(push)

    def came(self, push: str, one: str) -> None:
        """An object is there."""
        with self._lock:
            for _, objects in self._open.get(push, []):
                objects.discard(one)
        self._look(push)

    def tell(self, whom: Hashable) -> None:
        """Somebody has a message to fetch."""
        self._soon(self._tell, whom)

    def fetched(self, whom: Hashable) -> None:
        """Somebody has fetched one; there may be more."""
        self._soon(self._fetched, whom)

    async def wait(self, whom: Hashable, seconds: float, gone: Callable[[], Awaitable[object]]) -> bool:
        """Wait until there is something to fetch; at most this long, and not at all for who was never told.

        Args:
            gone: returns when the asker has gone.

        Returns:
            False: the asker has gone.
        """
        self._loop = asyncio.get_running_loop()
        event = self._events.get(whom)
        if event is None:
            return True
        waiting, leaving = asyncio.ensure_future(event.wait()), asyncio.ensure_future(gone())
        try:
            await asyncio.wait({waiting, leaving}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            left = leaving.done()
        finally:
            waiting.cancel()
            leaving.cancel()
        if not left:
            event.clear()  # before the question is answered: what comes from now on is news again
        return not left

    def _look(self, push: str) -> None:
        """Tell those whose messages are complete."""
        with self._lock:
            messages = self._open.pop(push, [])
            if left := [(whom, objects) for whom, objects in messages if objects]:
                self._open[push] = left
        for whom, objects in messages:
            if not objects:
                self.tell(whom)

    def _soon(self, do: Callable[[Hashable], None], whom: Hashable) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(do, whom)

    def _tell(self, whom: Hashable) -> None:
        self._ready[whom] += 1
        self._events.setdefault(whom, asyncio.Event()).set()

    def _fetched(self, whom: Hashable) -> None:
        self._ready[whom] = max(self._ready[whom] - 1, 0)
        if self._ready[whom] and whom in self._events:
            self._events[whom].set()


class Holding:
    """An ASGI application whose questions for messages wait for the news.

    Args:
        app: answers them, and everything else.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], news: News) -> None:
        self._app, self._news = app, news

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Any) -> None:
        """Hold a question for messages, then answer it; what comes from a peer is passed on as it came."""
        if scope.get("path") not in _HOLD or scope.get("type") != "http":
            await self._app(scope, receive, send)
            return
        read = [await receive()]
        size = len(read[0].get("body", b""))
        while read[-1].get("more_body") and size <= _MOST:
            read.append(await receive())
            size += len(read[-1].get("body", b""))

        async def again() -> Received:
            return read.pop(0) if read else await receive()

        whole = read[-1]["type"] == "http.request" and not read[-1].get("more_body")
        whom = _asker(scope["path"], b"".join(part.get("body", b"") for part in read)) if whole else None
        if whom is None or await self._news.wait(whom, _HOLD[scope["path"]], receive):
            await self._app(scope, again, send)


def _asker(path: str, body: bytes) -> Hashable | None:
    """Who asks; not proven yet: a stranger can take a piece of news from a node, which then waits for three seconds."""
    if path == _SERVER:
        return _REPLIES
    try:
        return int(PullMessagesRequest.FromString(body).node.node_id)
    except Exception:  # whatever protobuf raises: the app says what is wrong with it
        return None


def _objects(tree: Any) -> Iterator[str]:
    """What a message is made of."""
    yield tree.object_id
    for child in tree.children:
        yield from _objects(child)


def hear(news: News, nodes: Any, server: Any) -> None:
    """Let a SuperLink's handlers tell what comes.

    Args:
        nodes, server: modules with the handlers for SuperNodes and for ServerApps.
    """
    pull, push_reply, push = nodes.pull_messages, nodes.push_messages, server.push_messages

    def pull_messages(request: Any, *args: Any, **others: Any) -> Any:
        answer = pull(request, *args, **others)
        if answer.messages_list:
            news.fetched(int(request.node.node_id))
        return answer

    def push_messages_of_node(request: Any, *args: Any, **others: Any) -> Any:
        answer = push_reply(request, *args, **others)
        news.begin(answer.session_id, [(_REPLIES, answer.objects_to_push)])
        return answer

    def push_messages_of_server(request: Any, *args: Any, **others: Any) -> Any:
        answer = push(request, *args, **others)
        to_come, nodes = set(answer.objects_to_push), [int(one.metadata.dst_node_id) for one in request.messages_list]
        trees = zip(nodes, request.message_object_trees, strict=True)
        news.begin(answer.session_id, [(node, to_come.intersection(_objects(tree))) for node, tree in trees])
        return answer

    def counted(push_object: Callable[..., Any]) -> Callable[..., Any]:
        def push_one(request: Any, *args: Any, **others: Any) -> Any:
            answer = push_object(request, *args, **others)
            news.came(request.session_id, request.object_id)
            return answer

        return push_one

    vars(nodes).update(pull_messages=pull_messages, push_messages=push_messages_of_node)
    vars(server).update(push_messages=push_messages_of_server)
    for module in (nodes, server):
        vars(module).update(push_object=counted(module.push_object))


def be_quick() -> None:
    """Apply all of this to the process."""
    news, run = News(), uvicorn.run

    def run_holding(app: Any, **options: Any) -> None:
        run(app=Holding(app, news), **options)

    handlers = {fleet_handlers: ("pull_messages",), runtime_handlers: ()}
    common = ("push_messages", "push_object")
    if all(hasattr(module, name) for module, names in handlers.items() for name in (*names, *common)):
        hear(news, fleet_handlers, runtime_handlers)
        vars(uvicorn).update(run=run_holding)
    if hasattr(sql_mixin, "SQLITE_PRAGMAS"):
        vars(sql_mixin).update(SQLITE_PRAGMAS=(*sql_mixin.SQLITE_PRAGMAS, ("synchronous", "OFF")))
    cleanup: Callable[[Any], None] | None = getattr(SqlCoreState, "_cleanup_expired_task_tokens", None)
    if cleanup is not None:
        setattr(SqlCoreState, "_cleanup_expired_task_tokens", seldom(cleanup))  # noqa: B010 - theirs


def seldom(cleanup: Callable[[Any], None], now: Callable[[], float] = time.monotonic) -> Callable[[Any], None]:
    """The same, but nothing where it was done less than a second ago."""
    last = now() - _CLEANUP

    def cleanup_now_and_then(state: Any) -> None:
        nonlocal last
        if now() - last >= _CLEANUP:
            last = now()
            cleanup(state)

    return cleanup_now_and_then


if __name__ == "__main__":
    be_quick()
    flower_superlink()
