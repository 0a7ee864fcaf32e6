"""A Grid without a SuperLink: it calls the ClientApp in this process, through the same serialised records.

For debugging, for fault injection in tests and, with a pool of processes (`flotilla.local.pool`), for sweeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from time import monotonic
from typing import TYPE_CHECKING

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client_app.side_by_side import expect, expect_nobody
from flotilla.flwr_compat.messages import CLIENT_APP_RAISED, error_as_sent, through_the_wire
from flotilla.local.base import EngineGrid, address_of, addresses_of, partition_of
from flotilla.local.groups import grouped
from flotilla.local.stopped import Stopped
from protocol import Scalar

if TYPE_CHECKING:
    from strategies.exchange.fleet import Directory

Faults = Callable[[Message, Message], list[Message]]


def contexts(run_config: Mapping[str, Scalar], nodes: int) -> dict[int, Context]:
    """One context per node, by address."""
    return {address_of(i): _context(run_config, i, nodes) for i in range(nodes)}


class LazyContexts(Mapping[int, Context]):
    """The same, each made when it is first looked at.

    Args:
        run_config: flat configuration.
        nodes: number of clients.
    """

    def __init__(self, run_config: Mapping[str, Scalar], nodes: int) -> None:
        self._config, self._addresses = dict(run_config), addresses_of(nodes)
        self._made: dict[int, Context] = {}

    def __getitem__(self, address: int) -> Context:
        if address not in self._addresses:
            raise KeyError(address)
        if address not in self._made:
            self._made[address] = _context(self._config, partition_of(address), len(self._addresses))
        return self._made[address]

    def __iter__(self) -> Iterator[int]:
        return iter(self._addresses)

    def __len__(self) -> int:
        return len(self._addresses)

    def clear(self) -> None:
        """Make all anew."""
        self._made.clear()


def _context(run_config: Mapping[str, Scalar], partition: int, nodes: int) -> Context:
    return Context(
        run_id=1,
        node_id=address_of(partition),
        node_config={"partition-id": partition, "num-partitions": nodes, "allow": "*"},  # the user's own machine
        state=RecordDict(),
        run_config=dict(run_config),
    )


class LocalGrid(EngineGrid):
    """Runs a client when its reply is asked for.

    Args:
        app: the ClientApp.
        nodes: flwr node id → context.
        faults: given a request and its reply, the messages that really arrive: [] loses it, two are a duplicate.
        directory: what is known of the nodes without asking.
    """

    def __init__(
        self,
        app: ClientApp,
        nodes: Mapping[int, Context],
        faults: Faults | None = None,
        directory: Directory | None = None,
    ) -> None:
        known = nodes if isinstance(nodes, LazyContexts) else dict(nodes)
        super().__init__(known, directory)
        self._app, self._nodes = app, known
        self._faults = faults
        self._pending: dict[str, Message] = {}
        self._together: dict[str, list[Message]] = {}  # id → the requests that it may be trained with
        self._said = True  # whether the ClientApp may expect some, of a run before too

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Keep the messages, and see which are alike."""
        ids = list(super().push_messages(messages))
        self._expect_nobody()
        if len(ids) > 1:
            for group in grouped([self._pending[one] for one in ids], 1, self.directory):
                self._together |= {one.metadata.message_id: group for one in group if len(group) > 1}
        return ids

    def accept(self, message: Message) -> None:
        """Keep the message until its reply is asked for."""
        self._pending[message.metadata.message_id] = message

    def forget(self) -> None:
        """Give every node an empty state."""
        self._expect_nobody()
        if isinstance(self._nodes, LazyContexts):
            self._nodes.clear()
            return
        for context in self._nodes.values():
            context.state.clear()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Run the first of the asked clients that has not run yet, and return what arrives from it."""
        for message_id in message_ids:
            request = self._pending.pop(message_id, None)
            if request is not None:
                if group := self._together.pop(message_id, None):
                    self._expect(group, request)
                reply = self._answer(request)
                return [reply] if self._faults is None else self._faults(request, reply)
        return []

    def withdraw(self, message_ids: Iterable[str]) -> None:
        """Take back requests that no client has begun to work on."""
        for message_id in message_ids:
            self._pending.pop(message_id, None)
        self._expect_nobody()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push, then pull until everything has arrived or time is up."""
        waiting = set(self.push_messages(messages))
        replies: list[Message] = []
        deadline = monotonic() + (timeout if timeout is not None else 1e9)
        while waiting and monotonic() < deadline:
            arrived = list(self.pull_messages(sorted(waiting)))
            replies += arrived
            waiting -= {message.metadata.reply_to_message_id for message in arrived}
            if not arrived and not waiting & set(self._pending):
                break
        return replies

    def _expect_nobody(self) -> None:
        if self._said:
            expect_nobody()
        self._together, self._said = {}, False

    def _expect(self, group: list[Message], first: Message) -> None:
        """Say that all of a group are going to be asked, when it is the first one's turn."""
        for one in group:
            self._together.pop(one.metadata.message_id, None)
        self._said = True
        here = [one for one in group if one is first or one.metadata.message_id in self._pending]
        expect([(one.content, self._nodes[one.metadata.dst_node_id]) for one in here])

    def _answer(self, request: Message) -> Message:
        context = self._nodes[request.metadata.dst_node_id]
        received = Message(
            content=through_the_wire(request.content),
            dst_node_id=request.metadata.dst_node_id,
            message_type=request.metadata.message_type,
            group_id=request.metadata.group_id,
        )
        try:
            reply = self._app(received, context)
            if reply.has_error():
                return Message(error_as_sent(reply.error.code, reply.error.reason or ""), reply_to=request)
            content = through_the_wire(reply.content)
        except Stopped:
            raise
        except (Exception, SystemExit) as error:  # whatever a client raises becomes an error reply, as in flwr
            return Message(error_as_sent(CLIENT_APP_RAISED, f"{type(error)}:<'{error}'>"), reply_to=request)
        return Message(content, reply_to=request)
