"""What a reply may say of what it was asked: no more examples than its hello, no more steps than planned.

These are no guesses, so nothing is set here: what a node was told bounds what it can have done.
"""

from __future__ import annotations

from math import inf

from protocol import Work
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.update import ClientUpdate

_MOST = {"accuracy": 1.0, "seconds": inf, "seconds-computing": inf, "loss-square": inf}


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
    return planned_steps(assignment.work, assignment.node.examples)


def within_plan(assignment: TrainAssignment, update: ClientUpdate) -> ClientUpdate:
    """A reply that says no more examples and steps than the node told and was told, and no number out of its range."""
    most = {"num-examples": float(assignment.node.examples), "steps": float(steps_of(assignment)), **_MOST}
    numbers = {key: value for key, value in update.metrics.items() if key in most}
    said = {key: bound for key, value in numbers.items() if (bound := max(0.0, min(value, most[key]))) != value}
    return update.with_metrics(said) if said else update
