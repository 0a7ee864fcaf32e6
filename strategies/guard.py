"""The guard: every reply is checked whole before anything of it is added; a rejected reply is as if it had never come.

The server trusts only what it remembers. From a reply it takes the nonce, one vector of known length, and numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import Message
from torch import Tensor

from models.submodel import Submodel
from protocol import DIFFERENCE, NodeId, Reply, WireError, decode

MOST_EXAMPLES = 10**9


class Rejected(Exception):
    """A reply that is not used, and why."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """What the metrics say of a rejected reply.

    Attributes:
        node: stable id of the node; None if the message belongs to nobody.
        reason: one line.
    """

    node: NodeId | None
    reason: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """A reply that passed.

    Attributes:
        difference: flat float32 vector of the part's coordinates; must not be written to.
        metrics: the numbers that came along.
        bytes_up: encoded bytes of the array.
    """

    difference: Tensor
    metrics: dict[str, float]
    bytes_up: int


def content_of(message: Message | None, nonce: str, name: str | None) -> Reply:
    """Read a reply.

    Raises:
        Rejected: it did not come, is an error, answers something else, or is not what was asked for.
    """
    if message is None:
        raise Rejected("late: no reply before the deadline")
    if message.has_error():
        raise Rejected(f"error {message.error.code}: {_first_line(message.error.reason)}")
    try:
        reply = Reply.from_record(message.content, name)
    except WireError as error:
        raise Rejected(str(error)) from None
    if reply.nonce != nonce:
        raise Rejected(f"the reply answers {reply.nonce!r}, not {nonce!r}")
    return reply


def check(message: Message | None, nonce: str, part: Submodel, codec: str) -> Accepted:
    """Check a training reply against the part that was sent.

    Raises:
        Rejected: the reason, in one line.
    """
    reply = content_of(message, nonce, DIFFERENCE)
    assert reply.array is not None  # content_of asked for one
    try:
        difference = decode(reply.array, part.numel, codec)
    except WireError as error:
        raise Rejected(str(error)) from None
    examples = reply.metrics.get("num-examples")
    if examples is None or not 0 < examples <= MOST_EXAMPLES:
        raise Rejected(f"num-examples = {examples}: allowed is more than 0 and at most {MOST_EXAMPLES}")
    return Accepted(difference.float(), dict(reply.metrics), len(reply.array.data))


def _first_line(text: str | None) -> str:
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no reason given"
