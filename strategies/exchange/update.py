"""A node's reply as the server's stages see it, from the encoded array to what is added to the global state.

The server trusts only what it remembers. From a reply it takes the nonce, one vector of known length, and numbers.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from hmac import compare_digest
from logging import WARNING
from typing import Protocol, TypeVar

import numpy as np
import torch
from flwr.app import Array, Message, RecordDict
from flwr.common import log
from numpy.typing import NDArray
from torch import Tensor

from models.algebra.submodel import Submodel
from protocol import MOST_OF_A_REASON, NodeId, Reply, WireError, escaped, quoted
from strategies.exchange.assignment import TrainAssignment

MOST_EXAMPLES = 10**9
_RAISED = re.compile(r"<class '(?:[^'.]+\.)*([^'.]+)'>:<'(.*)'>")  # how flwr writes what a ClientApp raised
_LOOKED_AT = 4096  # characters of an error's reason, from its end
_NONE = torch.zeros(0)


class Rejected(Exception):
    """A reply that is not used, and why."""


class Blamed(Rejected):
    """The node says that others are in the way of its reply.

    Attributes:
        positions: theirs in its group of secure aggregation.
    """

    def __init__(self, positions: tuple[int, ...]) -> None:
        super().__init__(f"secure aggregation: it cannot read what senders {list(positions)} encrypted")
        self.positions = positions


@dataclass(frozen=True, slots=True)
class Rejection:
    """What the metrics say of a rejected reply.

    Attributes:
        node: stable id of the node; None if the message belongs to nobody.
        reason: one line, bounded and without anything but print, whatever it is made with.
        blames: whom the node cannot read, by their positions in its group of secure aggregation; not in the metrics.
    """

    node: NodeId | None
    reason: str
    blames: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Every rejection comes through here, so nothing that a peer said gets further than this unescaped."""
        object.__setattr__(self, "reason", escaped(self.reason, MOST_OF_A_REASON))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientUpdate:
    """A reply on its way through the stages; each fills in or replaces a few fields.

    Attributes:
        metrics: the numbers that came along.
        array: the encoded difference, until it has been decoded.
        bytes_down, bytes_up: encoded bytes of the arrays of request and reply.
        difference: flat float32 vector of the part's coordinates; must not be written to.
        norm: L2 norm of the difference; not finite if the difference is not, which the average refuses.
        norm_received: the same before a bound shortened it.
        entropy_bytes: what an ideal coder would have needed for the array (see `protocol.codecs.Decoded`).
        remember: what the codec wants kept of the node once the round has ended well.
        span: least and most that the difference may have been as a multiple of the decoded one's length (see
            `protocol.codecs.Decoded`).
        cluster: number of the global state that it changes; None for a reply that changes none.
        part: what the node held of that state; None is what the assignment says.
        numerator, denominator: a and b of the average.
        rows: class rows that it may change; None for all.
        counted: what of the part it may change, and where that is in the difference; None for all.
    """

    metrics: Mapping[str, float]
    array: Array | None = None
    bytes_down: int = 0
    bytes_up: int = 0
    difference: Tensor = _NONE
    norm: float = 0.0
    norm_received: float = 0.0
    entropy_bytes: float = 0.0
    remember: Mapping[str, Tensor] = field(default_factory=dict)
    span: tuple[float, float] = (1.0, 1.0)
    cluster: int | None = 0
    part: Submodel | None = None
    numerator: float = 1.0
    denominator: float = 1.0
    rows: tuple[int, ...] | None = None
    counted: tuple[Submodel, Tensor] | None = None

    def with_metrics(self, metrics: Mapping[str, float]) -> ClientUpdate:
        """The same reply with other numbers in place of some of its own."""
        return replace(self, metrics={**self.metrics, **metrics})

    @staticmethod
    def nothing() -> ClientUpdate:
        """A reply that changes nothing."""
        return ClientUpdate(metrics={"num-examples": 1.0})


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedUpdate:
    """What an accepted reply said of its node; the difference itself has been added and forgotten.

    Attributes:
        assignment: what the node was asked.
        metrics: the reply's numbers.
        vector: of its difference, if the selector wants one.
        cluster: whose state it changed; None for a reply that changed none.
        remember: what the codec wants kept of the node.
    """

    assignment: TrainAssignment
    metrics: Mapping[str, float]
    vector: NDArray[np.float32] | None = None
    cluster: int | None = 0
    remember: Mapping[str, Tensor] = field(default_factory=dict)


class Answer(Protocol):
    """Whatever repeats the nonce of a request."""

    @property
    def nonce(self) -> str:
        """As the node has it."""
        ...


A = TypeVar("A", bound=Answer)


def content_of(message: Message | None, nonce: str, name: str | None) -> Reply:
    """Read a reply.

    Args:
        message: the reply; None if there was none.
        nonce: of the request.
        name: of the array that it must hold; None for numbers only.

    Raises:
        Rejected: as `answer_of`.
    """
    return answer_of(message, nonce, lambda content: Reply.from_record(content, name))


def answer_of(message: Message | None, nonce: str, read: Callable[[RecordDict], A]) -> A:
    """Read an answer of any kind.

    Args:
        message: what came; None if nothing did.
        nonce: of the request.
        read: makes an answer of records, or raises `WireError`.

    Raises:
        Rejected: it did not come, is an error, answers something else, or is not what was asked for.
    """
    if message is None:
        raise Rejected("late: no reply before the deadline")
    if message.has_error():
        raise Rejected(said_error(message))
    try:
        reply = read(message.content)
    except WireError as error:
        raise Rejected(str(error)) from None
    if not compare_digest(reply.nonce.encode("utf-8", "surrogatepass"), nonce.encode()):
        raise Rejected(f"the reply answers {quoted(reply.nonce)}, which is not what the node was asked")
    return reply


def cluster_of(metrics: Mapping[str, float], clusters: int) -> int:
    """Which of the states that it was sent a node trained, from 0.

    Raises:
        Rejected: it does not say, or names none of them.
    """
    cluster = metrics.get("cluster")
    if cluster is None or not (0 <= cluster < clusters and cluster == int(cluster)):
        raise Rejected(f"cluster = {cluster}: allowed is a whole number from 0 to {clusters - 1}")
    return int(cluster)


def said_error(message: Message) -> str:
    """What an error reply says: its code, and the last line of its reason, without flwr's marks around an exception."""
    code, reason = message.error.code, (message.error.reason or "")[-_LOOKED_AT:]
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    if not lines:
        return f"error {code}: no reason given"
    said = _RAISED.sub(r"\1: \2", lines[-1], count=1)
    return f"error {code}: {escaped(said)}"


def why_unusable(error: Exception) -> str:
    """What to say of a reply that something went wrong with, whatever that is.

    Errors of ours say what they expected. Any other one was foreseen by nobody: its text may hold anything, so the
    metrics name only its type, and the log the line of ours that it came from.
    """
    if isinstance(error, Rejected | WireError) or type(error) is ValueError:
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    log(WARNING, "a reply that nobody foresaw: %s at %s:%s", type(error).__name__, frame.filename, frame.lineno)
    return f"it cannot be read ({type(error).__name__})"
