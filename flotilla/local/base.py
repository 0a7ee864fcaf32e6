"""What both engines have in common: numbered nodes that are always online, and messages that get an id."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import uuid4

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from flotilla.flwr_compat.identity import assume_identity
from flotilla.flwr_compat.messages import give_id

if TYPE_CHECKING:
    from strategies.exchange.fleet import Directory


_FIRST, _STEP = 1000, 7  # not the partition itself, as in a real run


def address_of(partition: int) -> int:
    """Address of the node with a partition."""
    return _FIRST + _STEP * partition


def partition_of(address: int) -> int:
    """The partition of the node with an address."""
    return (address - _FIRST) // _STEP


def addresses_of(nodes: int) -> range:
    """Addresses of the nodes with partitions 0 to nodes - 1, which take no memory."""
    return range(_FIRST, address_of(nodes), _STEP)


class EngineGrid(Grid):
    """A Grid without a SuperLink.

    Args:
        addresses: of the nodes that exist.
        directory: what is known of them without asking; None asks everybody.

    Attributes:
        directory: see above.
        simulated: its nodes are the run's own, and are waited for while they start (`strategies.nodes.manager`).
    """

    simulated = True

    def __init__(self, addresses: Collection[int], directory: Directory | None = None) -> None:
        assume_identity()
        self._addresses, self.directory = addresses, directory

    @abstractmethod
    def accept(self, message: Message) -> None:
        """Take a message to a node that exists; its reply will be pulled by the message's id."""

    def forget(self) -> None:
        """Begin another run on the same nodes: what they remembered belonged to the last one."""

    def set_run(self, run: Any) -> None:
        """Nothing to set: there is one run."""

    @property
    def run(self) -> NoReturn:
        """There is no SuperLink that would know a run."""
        raise NotImplementedError("the local engine has no run record")

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message (deprecated in flwr)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Every node is always online."""
        return self._addresses

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Accept messages to nodes that exist; others are dropped, as flwr's simulation drops them."""
        ids = []
        for message in messages:
            give_id(message, str(uuid4()))
            if message.metadata.dst_node_id in self._addresses:
                self.accept(message)
                ids.append(message.metadata.message_id)
        return ids
