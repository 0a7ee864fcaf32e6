"""Cross entropy, plain and masked; of another task than classification, its loss (`models.losses`).

Masked (HeteroFL §3.3): logits of classes that the client does not have are replaced by 0 before the softmax, so they
get no gradient but stay in the sum; replacing them by minus infinity would be another objective. Split-Mix' released
code does that by batch, where classes are divided by device: what does not occur in the *batch* is masked
(illidanlab/SplitMix, commit fa163f7).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from client_app.objectives.base import LocalObjective, ObjectiveContext, ObjectiveFactory
from models.losses import CLASSIFICATION, loss_of


def cross_entropy(setting: ObjectiveContext) -> LocalObjective:
    """Mean cross entropy over all classes."""

    def loss(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = setting.module(inputs)
        return loss_of(setting.spec.task, logits, labels), logits

    return loss


def masked_cross_entropy(setting: ObjectiveContext) -> LocalObjective:
    """Mean cross entropy with the logits of absent classes set to 0."""
    if setting.spec.task != CLASSIFICATION:
        return cross_entropy(setting)
    absent = _absent(setting.spec.classes, setting.labels)
    if absent is None:
        return cross_entropy(setting)
    absent = absent.to(next(setting.module.parameters()).device)

    def loss(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = setting.module(inputs).masked_fill(absent, 0.0)
        return loss_of(setting.spec.task, logits, labels), logits

    return loss


def batch_masked_cross_entropy(setting: ObjectiveContext) -> LocalObjective:
    """Mean cross entropy with the logits of the classes set to 0 that do not occur in the batch."""
    if setting.spec.task != CLASSIFICATION:
        return cross_entropy(setting)

    def loss(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = setting.module(inputs)
        absent = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
        absent[labels] = False
        logits = logits.masked_fill(absent, 0.0)
        return loss_of(setting.spec.task, logits, labels), logits

    return loss


def absent_for(objective: str, classes: int, labels: Sequence[int]) -> Tensor | None:
    """Which classes' logits an objective sets to 0, bool [classes], only to be read; None where it leaves them all.

    Args:
        objective: its name.
        classes: how many there are.
        labels: those that the client has, a tuple.
    """
    if objective != "masked-cross-entropy":
        return None
    return (_absent_again if classes <= _FEW else _absent)(classes, labels)


def _absent(classes: int, labels: Sequence[int]) -> Tensor | None:
    """Which classes a client does not have, bool [classes]; None where it has them all."""
    present = set(labels)
    return torch.tensor([label not in present for label in range(classes)]) if len(present) < classes else None


def task_of(objective: str) -> ObjectiveFactory:
    """The task of an objective, without the terms that it adds: logits that are masked in training are masked here."""
    return {
        "masked-cross-entropy": masked_cross_entropy,
        "batch-masked-cross-entropy": batch_masked_cross_entropy,
    }.get(objective, cross_entropy)


_FEW = 1000  # classes up to which a client's are remembered: a kilobyte of flags and some of labels
_absent_again = lru_cache(maxsize=1024)(_absent)  # by client: it has the same classes in every round
