"""What a client optimises, by the name in its request."""

from __future__ import annotations

from client_app.objectives.base import LocalObjective, ObjectiveFactory, Setting
from client_app.objectives.cross_entropy import cross_entropy, masked_cross_entropy
from client_app.objectives.ordered_dropout import OrderedDropout
from protocol import WireError

OBJECTIVES: dict[str, ObjectiveFactory] = {
    "cross-entropy": cross_entropy,
    "masked-cross-entropy": masked_cross_entropy,
    "ordered-dropout": OrderedDropout,
}


def objective(name: str, setting: Setting) -> LocalObjective:
    """Make the objective that a request names.

    Raises:
        WireError: unknown objective or settings it does not take.
    """
    if name not in OBJECTIVES:
        raise WireError(f"objective {name!r}: this client knows {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name](setting)


__all__ = ["OBJECTIVES", "LocalObjective", "ObjectiveFactory", "Setting", "objective"]
