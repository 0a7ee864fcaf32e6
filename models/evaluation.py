"""Loss and accuracy of a network on tensors, independent of how the examples are batched."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from models.losses import CLASSIFICATION, REGRESSION, loss_of, right
from models.predictions import predictions
from models.variants.base_nets import BaseNets

BATCH = 500  # examples that are passed through a network at a time where nothing is trained; changes no accuracy
_BYTES = 2**23  # of inputs, and no more than these: 500 colour pictures of 32 x 32 are 6 MB, of 224 x 224 300 MB


class Inputs(Protocol):
    """Inputs of a network: a tensor, or what makes one of some of its rows at a time."""

    @property
    def shape(self) -> Sequence[int]:
        """Of the tensor of them all."""

    def split(self, split_size: int) -> Iterable[Tensor]:
        """So many at a time, in their order."""


def batch_of(inputs: Inputs) -> int:
    """How many of these inputs are passed through a network at a time where nothing is trained."""
    return max(1, min(BATCH, _BYTES // (4 * max(1, prod(inputs.shape[1:])))))


@dataclass(frozen=True, slots=True)
class Score:
    """Mean loss (nats, or squared error), share of right answers (nan of a regression), and the number of examples."""

    loss: float
    accuracy: float
    examples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How a network predicts, and how its parts do.

    Attributes:
        own: of what the network itself answers: its deepest exit, or the mean of its nets.
        each: of every exit, shallowest first, or of every net of a mixture; () where there is only one.
        ensemble: of the mean of their logits; None where there is only one.
        robust: share of attacked examples that it gets right (see `models.adversary`); None if none were attacked.
        more: what else was measured of its own outputs, by name.
    """

    own: Score
    each: tuple[Score, ...] = ()
    ensemble: Score | None = None
    robust: float | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


@torch.no_grad()
def evaluate_each(
    network: nn.Module, inputs: Inputs, labels: Tensor, *, task: str = CLASSIFICATION, batch_size: int = 0
) -> Scores:
    """Score a network and everything in it that predicts; see `evaluate`."""
    network.eval()
    batch_size = batch_size or batch_of(inputs)
    pairs = zip(inputs.split(batch_size), torch.split(labels, batch_size), strict=True)
    sums: Tensor | None = None
    for x, y in pairs:
        logits = [part.float() for part in predictions(network, x)]
        if len(logits) == 1:
            return Scores(own=evaluate(network, inputs, labels, batch_size=batch_size, task=task))
        several = [*logits, torch.stack(logits).mean(0)]
        losses = torch.stack([loss_of(task, part, y, "sum") for part in several]).double().cpu()
        correct = torch.stack([right(task, part, y) for part in several]).double().cpu()
        batch = torch.stack([losses, correct])
        sums = batch if sums is None else sums + batch
    if sums is None:
        return Scores(own=Score(float("nan"), float("nan"), 0))
    count = len(labels)
    *each, ensemble = [_score(task, loss, found, count) for loss, found in sums.T.tolist()]
    return Scores(own=ensemble if isinstance(network, BaseNets) else each[-1], each=tuple(each), ensemble=ensemble)


@torch.no_grad()
def evaluate(
    network: nn.Module,
    inputs: Inputs,
    labels: Tensor,
    *,
    task: str = CLASSIFICATION,
    batch_size: int = 0,
    allowed: Collection[int] | None = None,
) -> Score:
    """Score a network in evaluation mode; it stays in that mode.

    Args:
        network: logits from inputs.
        inputs: (N, C, H, W).
        labels: (N,) int64, or (N, outputs) of another task.
        task: see `models.losses`.
        batch_size: examples a forward pass; changes no result beyond float order; 0 is `batch_of`.
        allowed: if given, the prediction is the best of these labels only (a device that knows which labels it has).
    """
    network.eval()
    batch_size, closed = batch_size or batch_of(inputs), None
    loss, correct = 0.0, 0.0
    for x, y in zip(inputs.split(batch_size), torch.split(labels, batch_size), strict=True):
        logits = network(x).float()
        loss += loss_of(task, logits, y, "sum").item()
        if allowed is not None and task == CLASSIFICATION:
            if closed is None:
                closed = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
                closed[list(allowed)] = False
            logits = logits.masked_fill(closed, -torch.inf)
        correct += right(task, logits, y).item()
    count = len(labels)
    return _score(task, loss, correct, count) if count else Score(float("nan"), float("nan"), 0)


@torch.no_grad()
def outputs_of(network: nn.Module, inputs: Inputs, *, batch_size: int = 0) -> Tensor:
    """What a network answers to every input, float32 [N, outputs], in evaluation mode; it stays in that mode."""
    network.eval()
    return torch.cat([network(x).float() for x in inputs.split(batch_size or batch_of(inputs))])


def _score(task: str, loss: float, correct: float, count: int) -> Score:
    return Score(loss / count, float("nan") if task == REGRESSION else correct / count, count)
