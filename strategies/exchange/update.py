"""The guard: every reply is checked whole before anything of it is added; a rejected reply is as if it had never come.

The server trusts only what it remembers. From a reply it takes the nonce, one vector of known length, and numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from flwr.app import Array, Message
from numpy.typing import NDArray
from torch import Tensor

from models.algebra.average import norm_of
from protocol import DIFFERENCE, NodeId, Reply, WireError
from protocol.codecs import Decoded
from strategies.exchange.assignment import TrainAssignment

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientUpdate:
    """A reply that passed.

    Attributes:
        difference: flat float32 vector of the part's coordinates; must not be written to.
        metrics: the numbers that came along.
        bytes_up: encoded bytes of the array.
        norm: L2 norm of the difference; not finite if the difference is not, which the average refuses.
        entropy_bytes: what an ideal coder would have needed for the array (see `protocol.codecs.Decoded`).
        remember: what the codec wants kept of the node once the round has ended well.
        span: least and most that the difference may have been as a multiple of the decoded one's length (see
            `protocol.codecs.Decoded`).
    """

    difference: Tensor
    metrics: dict[str, float]
    bytes_up: int
    norm: float
    entropy_bytes: float = 0.0
    remember: Mapping[str, Tensor] = field(default_factory=dict)
    span: tuple[float, float] = (1.0, 1.0)

    @staticmethod
    def nothing() -> ClientUpdate:
        """A reply that changes nothing."""
        return ClientUpdate(difference=torch.zeros(0), metrics={"num-examples": 1.0}, bytes_up=0, norm=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedUpdate:
    """What an accepted reply said of its node.

    Attributes:
        sent: the request.
        metrics: the reply's numbers.
        vector: of its difference, if the selector wants one.
        cluster: whose state it changed; None for a reply that changed none.
        remember: what the codec wants kept of the node.
    """

    sent: TrainAssignment
    metrics: Mapping[str, float]
    vector: NDArray[np.float32] | None
    cluster: int | None = 0
    remember: Mapping[str, Tensor] = field(default_factory=dict)


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


def check(message: Message | None, nonce: str, decode: Callable[[Array], Decoded]) -> ClientUpdate:
    """Check a training reply against what was asked for.

    Args:
        message: the reply; None if there was none.
        nonce: of the request.
        decode: reads the array as the part and the codec imply.

    Raises:
        Rejected: the reason, in one line.
    """
    reply = content_of(message, nonce, DIFFERENCE)
    assert reply.array is not None  # content_of asked for one
    try:
        decoded = decode(reply.array)
    except WireError as error:
        raise Rejected(str(error)) from None
    examples = reply.metrics.get("num-examples")
    if examples is None or not 0 < examples <= MOST_EXAMPLES:
        raise Rejected(f"num-examples = {examples}: allowed is more than 0 and at most {MOST_EXAMPLES}")
    return ClientUpdate(
        difference=decoded.flat,
        metrics=dict(reply.metrics),
        bytes_up=len(reply.array.data),
        norm=norm_of(decoded.flat),
        entropy_bytes=decoded.entropy_bytes,
        remember=decoded.remember,
        span=decoded.span,
    )


def cluster_of(metrics: Mapping[str, float], clusters: int) -> int:
    """Which of the states that it was sent a node trained, from 0.

    Raises:
        Rejected: it does not say, or names none of them.
    """
    cluster = metrics.get("cluster")
    if cluster is None or not (0 <= cluster < clusters and cluster == int(cluster)):
        raise Rejected(f"cluster = {cluster}: allowed is a whole number from 0 to {clusters - 1}")
    return int(cluster)


def _first_line(text: str | None) -> str:
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no reason given"
