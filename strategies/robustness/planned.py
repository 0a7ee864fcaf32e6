"""What a reply may say of what it was asked: no more examples than its hello, no more steps than planned.

These are no guesses, so nothing is set here: what a node was told bounds what it can have done.
"""

from __future__ import annotations

from math import inf

from protocol import Work
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.update import ClientUpdate


def planned_steps(work: Work, examples: float) -> int:
    """Optimiser steps that a device of so many examples makes (see `data.batches`).

    Args:
        work: epochs or steps, and the batch size.
        examples: at least 1.
    """
    if work.local_steps:
        return work.local_steps
    count, size = int(examples), work.batch_size
    batches = -(-count // size)
    if batches > 1 and size > 1 and count % size == 1:
        batches -= 1  # a last batch of one example joins the one before it
    return work.local_epochs * batches


def steps_of(assignment: TrainAssignment) -> int:
    """Steps that a node is asked to make."""
    return planned_steps(assignment.work, assignment.node.hello.examples)


def within_plan(assignment: TrainAssignment, update: ClientUpdate) -> ClientUpdate:
    """A reply that says at most so many examples and steps as the node told and was told."""
    most = {"num-examples": float(assignment.node.hello.examples), "steps": float(steps_of(assignment))}
    said = {key: limit for key, limit in most.items() if update.metrics.get(key, -inf) > limit}
    return update.with_metrics(said) if said else update
