"""What a client optimises, by the name in its request."""

from __future__ import annotations

from functools import partial
from typing import cast

from client_app.objectives.adversarial import adversarial
from client_app.objectives.base import LocalObjective, ObjectiveContext, ObjectiveFactory, Settles
from client_app.objectives.cross_entropy import batch_masked_cross_entropy, cross_entropy, masked_cross_entropy, task_of
from client_app.objectives.exits import deep_supervision
from client_app.objectives.importance import importance_masked
from client_app.objectives.nets import every_net
from client_app.objectives.ordered_dropout import OrderedDropout
from client_app.objectives.self_pruning import SelfPruning
from models.errors import SettingError
from models.registry import Registry
from models.variants.base_nets import BaseNets
from protocol import WireError


def _factory(found: object) -> ObjectiveFactory | None:
    return cast(ObjectiveFactory, found) if callable(found) else None


OBJECTIVES: Registry[ObjectiveFactory] = Registry(
    "objective",
    group="flotilla.objectives",
    expected="a function or class that takes an ObjectiveContext and gives a function (inputs, labels) → loss, logits",
    check=_factory,
    built_in={
        "cross-entropy": cross_entropy,
        "masked-cross-entropy": masked_cross_entropy,
        "batch-masked-cross-entropy": batch_masked_cross_entropy,
        "ordered-dropout": OrderedDropout,
        "deep-supervision": deep_supervision,
        "importance-masked": importance_masked,
        "self-pruning": SelfPruning,
    },
)


def objective(name: str, about: ObjectiveContext) -> LocalObjective:
    """Make the objective that a request names: of every net of a mixture, on attacked inputs too where there are some.

    Raises:
        WireError: unknown objective or settings it does not take.
    """
    try:
        factory = OBJECTIVES[name]
    except SettingError as error:
        raise WireError(f"this client: {error}") from None
    if isinstance(about.module, BaseNets):
        return every_net(partial(objective, name), about)
    if about.attack is None:
        return factory(about)
    return adversarial(factory(about), task_of(name)(about), about)


__all__ = ["OBJECTIVES", "LocalObjective", "ObjectiveContext", "ObjectiveFactory", "Settles", "objective"]
