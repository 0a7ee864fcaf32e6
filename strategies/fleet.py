"""The fleet: which nodes there are and what they said of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic, sleep

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from protocol import HELLO, VERSION, Hello, NodeId, WireError
from strategies.exchange import exchange
from strategies.guard import Rejection

_SETTLE = 3.0  # seconds without a new node after which we start with fewer than expected


class NotEnoughNodes(RuntimeError):
    """Fewer nodes came than the run needs."""


@dataclass(slots=True)
class Node:
    """A node that said hello.

    Attributes:
        address: flwr's node id, which is drawn anew in every run.
        hello: what it said.
        last_loss, last_round, last_seconds: from its last accepted training reply.
    """

    address: int
    hello: Hello
    last_loss: float | None = None
    last_round: int = 0
    last_seconds: float | None = None

    @property
    def id(self) -> NodeId:
        """Stable id."""
        return self.hello.node


def in_order(node: NodeId) -> tuple[bool, int, str]:
    """Sort key of ids: numbers by value, then names."""
    return (True, 0, node) if isinstance(node, str) else (False, node, "")


@dataclass(slots=True)
class Fleet:
    """All nodes met so far.

    Attributes:
        seconds: how long a hello may take.
        labels: whether nodes are asked which labels they have; a node that is not asked does not tell.
    """

    seconds: float = 60.0
    labels: bool = False
    _nodes: dict[NodeId, Node] = field(default_factory=dict)
    _history: dict[NodeId, tuple[float | None, int, float | None]] = field(default_factory=dict)  # from a checkpoint

    def wait(self, grid: Grid, expected: int, least: int, seconds: float) -> int:
        """Wait until the expected number of nodes is online, or at least `least` and no more are coming.

        Raises:
            NotEnoughNodes: fewer than `least` after `seconds`.
        """
        began = changed = monotonic()
        count = len(list(grid.get_node_ids()))
        while count < expected:
            now = monotonic()
            if count >= least and now - changed >= min(_SETTLE, seconds):
                break
            if now - began >= seconds:
                raise NotEnoughNodes(
                    f"{count} nodes are online, the run needs {least}; in a simulation start it with "
                    f"`flotilla run`, or `flwr run . --federation-config 'num-supernodes={expected}'`"
                )
            sleep(0.05)
            seen = len(list(grid.get_node_ids()))
            changed = now if seen != count else changed
            count = seen
        return count

    def greet(self, grid: Grid) -> tuple[list[Node], list[Rejection]]:
        """Say hello to nodes that are new and return all that are online, in order of their ids."""
        online = set(grid.get_node_ids())
        rejections: list[Rejection] = []
        new = sorted(online - {node.address for node in self._nodes.values()})
        record = RecordDict({"config": ConfigRecord({"version": VERSION, "labels": self.labels})})
        messages = [Message(content=record, message_type=HELLO, dst_node_id=address) for address in new]

        def take(i: int, reply: Message | None) -> None:
            try:
                hello = _read(reply)
            except WireError as error:
                rejections.append(Rejection(None, f"hello of node {new[i]}: {error}"))
                return
            known = self._nodes.get(hello.node)
            if known is not None and known.address in online:
                rejections.append(Rejection(hello.node, f"two nodes say they are {hello.node!r}; one is left out"))
                return
            self._nodes[hello.node] = self._met(new[i], hello, known)

        if messages:
            exchange(grid, messages, take, seconds=self.seconds)
        nodes = [node for node in self._nodes.values() if node.address in online]
        return sorted(nodes, key=lambda node: in_order(node.id)), rejections

    def _met(self, address: int, hello: Hello, known: Node | None) -> Node:
        """A node that is new, or back under another address: what was learnt of it stays."""
        if known is not None:
            return Node(address, hello, known.last_loss, known.last_round, known.last_seconds)
        return Node(address, hello, *self._history.get(hello.node, (None, 0, None)))

    def history(self) -> list[list[NodeId | float | None]]:
        """What was learnt of the nodes, for a checkpoint: rows (id, last loss, last round, last seconds)."""
        known = {**self._history, **{n.id: (n.last_loss, n.last_round, n.last_seconds) for n in self._nodes.values()}}
        return [[node, *known[node]] for node in sorted(known, key=in_order)]

    def remember(self, history: Sequence[Sequence[NodeId | float | None]]) -> None:
        """Take up what a checkpoint knew of the nodes, before they say hello."""
        for node, loss, last, seconds in history:
            if node is not None and not isinstance(node, float):
                self._history[node] = (_number(loss), int(last or 0), _number(seconds))


def _number(value: NodeId | float | None) -> float | None:
    return None if value is None else float(value)


def _read(reply: Message | None) -> Hello:
    if reply is None:
        raise WireError("no answer in time")
    if reply.has_error():
        reason = (reply.error.reason or "").strip().splitlines()
        raise WireError(f"error {reply.error.code}: {reason[-1][:200] if reason else 'no reason given'}")
    return Hello.from_record(reply.content)
