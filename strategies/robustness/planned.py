"""What a reply may say of what it was asked: no more examples than its hello, no more steps than planned.

These are no guesses, so nothing is set here: what a node was told bounds what it can have done.
"""

from __future__ import annotations

from math import inf

from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.update import ClientUpdate

_MOST = {"accuracy": 1.0, "seconds": inf, "seconds-computing": inf, "loss-square": inf}


def within_plan(assignment: TrainAssignment, update: ClientUpdate) -> ClientUpdate:
    """A reply that says no more examples and steps than the node told and was told, and no number out of its range."""
    most = {"num-examples": float(assignment.node.examples), "steps": float(assignment.planned), **_MOST}
    numbers = {key: value for key, value in update.metrics.items() if key in most}
    said = {key: bound for key, value in numbers.items() if (bound := max(0.0, min(value, most[key]))) != value}
    return update.with_metrics(said) if said else update
