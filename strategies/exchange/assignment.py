"""What a node was asked to train."""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import Message

from models.algebra.plans import Plan
from models.algebra.submodel import Submodel
from strategies.exchange.node import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainAssignment:
    """What the server remembers of one request, so that nothing has to come back.

    Attributes:
        node: who got it.
        tier: the node's tier this round.
        plan: which part it was asked to train.
        part: the same as blocks.
        nonce: the name of the request.
        message: the request itself.
        bytes_down: encoded bytes of its arrays.
        weight: what numerator and denominator of the reply are multiplied by, on behalf of the selection.
    """

    node: Node
    tier: str
    plan: Plan
    part: Submodel
    nonce: str
    message: Message
    bytes_down: int
    weight: float = 1.0
