"""The fleet: which nodes there are and what they said of themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic, sleep

from flwr.app import Message
from flwr.serverapp import Grid

from protocol import HELLO, Hello, HelloRequest, NodeId, WireError, quoted
from strategies.exchange.messaging import WaitTimes, exchange
from strategies.exchange.node import Node, in_order
from strategies.exchange.update import Rejection, said_error, why_unusable

_SETTLE = 3.0  # seconds without a new node after which we start with fewer than expected


_SILENT = "no answer in time"


class NotEnoughNodes(RuntimeError):
    """Fewer nodes came than the run needs."""


class NobodyAnswered(NotEnoughNodes):
    """Nodes are there, and every one of them refused to say hello.

    Args:
        reasons: what each of them said.
    """

    def __init__(self, reasons: Sequence[str]) -> None:
        told = "; ".join(f"{count} said: {reason}" for reason, count in Counter(reasons).most_common(3))
        unknown = any(
            "registered" in reason for reason in reasons
        )  # as flwr says of a type that an app does not answer
        hint = "; a ClientApp has to answer `hello` and `train.part`: docs/clients.md says how" if unknown else ""
        super().__init__(f"none of {len(reasons)} nodes answered hello; {told}{hint}")


@dataclass(slots=True, kw_only=True)
class NodeManager:
    """All nodes met so far.

    Attributes:
        seconds: how long a hello may take after the last one that came.
        labels: whether nodes are asked which labels they have; a node that is not asked does not tell.
        profile: what nodes are asked to measure of themselves, a `protocol.profile.ProfileRequest` as text; "" is
            nothing.
        facts: of the task, as requests carry them.
        waited: where the seconds of the last `greet` went; None if it had nobody to ask.
    """

    seconds: float = 60.0
    labels: bool = False
    profile: str = ""
    facts: str = ""
    waited: WaitTimes | None = None
    _nodes: dict[NodeId, Node] = field(default_factory=dict)
    _online: frozenset[int] = frozenset()  # addresses of `_present`
    _present: list[Node] = field(default_factory=list)

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
        """Say hello to nodes that are new and return all that are online, in order of their ids.

        The list is the same object as long as nobody comes or goes.

        Raises:
            NobodyAnswered: no node has ever said hello, and those that are online refuse to.
        """
        self.waited = None
        online = frozenset(grid.get_node_ids())
        if online == self._online and len(online) == len(self._present):
            return self._present, []
        rejections: list[Rejection] = []
        refusals: dict[int, str | None] = {}  # by address; None: silent, perhaps only for now
        new = sorted(online - {node.address for node in self._nodes.values()})
        record = HelloRequest(labels=self.labels, profile=self.profile, facts=self.facts).to_record()
        messages = [Message(content=record, message_type=HELLO, dst_node_id=address) for address in new]

        def take(i: int, reply: Message | None) -> None:
            try:
                hello = _read(reply)
            except Exception as error:  # whatever it says, the others are there
                rejections.append(Rejection(None, f"hello of node {new[i]}: {why_unusable(error)}"))
                refusals[new[i]] = None if reply is None else rejections[-1].reason.partition(": ")[2]
                return
            known = self._nodes.get(hello.node)
            if known is not None and known.address in online:
                line = f"two nodes say they are {quoted(hello.node)}; one is left out"
                rejections.append(Rejection(hello.node, line))
                return
            self._nodes[hello.node] = Node(new[i], hello)

        if messages:
            # In whatever order they come: of thousands of nodes, the first ones may be the last to answer.
            came: list[Message | None] = [None] * len(messages)
            self.waited = exchange(
                grid, messages, came.__setitem__, seconds=self.seconds, enough=lambda: False, patient=True
            )
            for i, reply in enumerate(came):
                take(i, reply)
        nodes = [node for node in self._nodes.values() if node.address in online]
        if not self._nodes and online and all(reason is not None for reason in refusals.values()):
            raise NobodyAnswered([reason for reason in refusals.values() if reason])
        self._online, self._present = online, sorted(nodes, key=lambda node: in_order(node.id))
        return self._present, rejections


def _read(reply: Message | None) -> Hello:
    if reply is None:
        raise WireError(_SILENT)
    if reply.has_error():
        raise WireError(said_error(reply))
    return Hello.from_record(reply.content)
