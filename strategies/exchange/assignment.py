"""What a node was asked to train."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from models.algebra.plans import Plan
from models.algebra.submodel import Submodel
from protocol import Objective, Optimiser, Work
from protocol.secure.messages import SecureSum
from strategies.exchange.node import Node
from strategies.tiers.tier import Tier


@dataclass(frozen=True, slots=True, kw_only=True)
class Participant:
    """A node that was chosen for a round.

    Attributes:
        node: who.
        tier: the node's tier this round.
        weight: what numerator and denominator of its reply are multiplied by, on behalf of the selection.
        round_number: the round whose plan it gets; an earlier one for a node that has to find its cluster first.
        clusters: numbers of the global states that it is sent; of several it takes the one that fits it best.
        trains: whether its reply changes a global state; else it only says where the node belongs.
    """

    node: Node
    tier: Tier
    weight: float = 1.0
    round_number: int
    clusters: tuple[int, ...] = (0,)
    trains: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainAssignment:
    """Everything about one request that the server remembers, so that nothing has to come back with the reply.

    Attributes:
        node: who gets it.
        tier: name of the node's tier this round.
        plan: which part it is asked to train.
        part: the same as blocks.
        nonce: the name of the request, which the reply repeats.
        objective: what to optimise.
        optimiser: with which steps.
        work: how many of them, and what to measure.
        clusters, trains: see `Participant`.
        codec: how its reply is to be encoded, as `CodecSettings.to_text` has it.
        codec_base: what the server keeps of the node for the codec (see `protocol.codecs.Codec.base`).
        last_counted: round of the node's last reply that counted; 0 if there was none.
        weight: what numerator and denominator of the reply are multiplied by, on behalf of the selection.
        dynamic_alpha: strength of FedDyn's regulariser on this device; 0 is none.
        secure: how its reply is to be masked; None sends it as it is.
        asked_in: the round whose state it is sent; 0: the round of its reply.
        planned: optimiser steps that it is asked to make.
        effective: how far these get with its momentum, see `effective_steps`.
    """

    node: Node
    tier: str
    plan: Plan
    part: Submodel
    nonce: str
    objective: Objective = Objective()
    optimiser: Optimiser = Optimiser(0.01)
    work: Work = Work()
    clusters: tuple[int, ...] = (0,)
    trains: bool = True
    codec: str = "float32"
    codec_base: int = 0
    last_counted: int = 0
    weight: float = 1.0
    dynamic_alpha: float = 0.0
    secure: SecureSum | None = None
    asked_in: int = 0
    planned: int = field(init=False)
    effective: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "planned", planned_steps(self.work, self.node.examples))
        object.__setattr__(self, "effective", effective_steps(self.planned, self.optimiser.momentum))


def planned_steps(work: Work, examples: int) -> int:
    """Optimiser steps that a device of so many examples makes (see `data.batches`).

    Args:
        work: epochs or steps, and the batch size.
        examples: at least 1.
    """
    if work.local_steps:
        return work.local_steps
    size = work.batch_size
    batches = -(-examples // size)
    if batches > 1 and size > 1 and examples % size == 1:
        batches -= 1  # a last batch of one example joins the one before it
    return work.local_epochs * batches


def effective_steps(steps: float, momentum: float, pull: float = 0.0) -> float:
    """‖a‖₁ of FedNova (§4): how far a constant gradient of 1 moves a client at a learning rate of 1.

    Args:
        steps: at least 1; fractions are cut off where there is a pull.
        momentum: ρ, less than 1.
        pull: c, the share of the way back that every step also wants; 0 is none.
    """
    if not pull:
        return (steps - momentum * (1 - float(momentum**steps)) / (1 - momentum)) / (1 - momentum)
    # velocity ← ρ velocity + 1 - c moved, moved ← moved + velocity; as a power, because steps may be many.
    step = np.array([[momentum, -pull, 1.0], [momentum, 1 - pull, 1.0], [0.0, 0.0, 1.0]])
    return float(np.linalg.matrix_power(step, int(steps))[1, 2])
