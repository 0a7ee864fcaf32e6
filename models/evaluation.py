"""Loss and accuracy of a network on tensors, independent of how the examples are batched."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
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


class _Tally:
    """Sums of losses and of right answers of everything in a network that predicts.

    Args:
        task: see `models.losses`.
        mixture: whether the network's own answer is the mean of its predictions, not the last of them.
        keep: where what the network itself answers goes, batch by batch; None is nowhere.
    """

    def __init__(self, task: str, *, mixture: bool, keep: list[Tensor] | None) -> None:
        self._task, self._mixture, self._keep = task, mixture, keep
        self._sums = torch.zeros(0)

    def add(self, found: Sequence[Tensor], labels: Tensor) -> None:
        """Count a batch of predictions."""
        logits = [part.float() for part in found]
        several = [*logits, torch.stack(logits).mean(0)] if len(logits) > 1 else logits
        losses = torch.stack([loss_of(self._task, part, labels, "sum") for part in several]).double().cpu()
        correct = torch.stack([right(self._task, part, labels) for part in several]).double().cpu()
        batch = torch.stack([losses, correct])
        self._sums = batch if not len(self._sums) else self._sums + batch
        if self._keep is not None:
            self._keep.append(several[-1] if self._mixture else logits[-1])

    def scores(self, count: int) -> Scores:
        """Of so many examples that were counted."""
        if not len(self._sums):
            return Scores(own=Score(float("nan"), float("nan"), 0))
        scores = [_score(self._task, loss, found, count) for loss, found in self._sums.T.tolist()]
        if len(scores) == 1:
            return Scores(own=scores[0])
        *each, ensemble = scores
        return Scores(own=ensemble if self._mixture else each[-1], each=tuple(each), ensemble=ensemble)


@torch.no_grad()
def evaluate_together(
    networks: Sequence[nn.Module],
    inputs: Inputs,
    labels: Tensor,
    *,
    one_pass: Callable[[Tensor], Sequence[Sequence[Tensor]]],
    task: str = CLASSIFICATION,
    batch_size: int = 0,
    keep: Sequence[list[Tensor]] | None = None,
) -> list[Scores]:
    """Score several networks in one pass, each as `evaluate_each` does.

    Args:
        networks: they are left in evaluation mode.
        inputs: (N, C, H, W).
        labels: as in `evaluate`.
        one_pass: inputs → what `predictions` says of each network (see `models.networks.one_pass`).
        task: see `models.losses`.
        batch_size: see `evaluate`.
        keep: as that of `evaluate_each`, one for each network.
    """
    for network in networks:
        network.eval()
    batch_size = batch_size or batch_of(inputs)
    places = [None] * len(networks) if keep is None else keep
    tallies = [
        _Tally(task, mixture=isinstance(network, BaseNets), keep=place)
        for network, place in zip(networks, places, strict=True)
    ]
    for x, y in zip(inputs.split(batch_size), torch.split(labels, batch_size), strict=True):
        for tally, found in zip(tallies, one_pass(x), strict=True):
            tally.add(found, y)
    return [tally.scores(len(labels)) for tally in tallies]


def evaluate_each(
    network: nn.Module,
    inputs: Inputs,
    labels: Tensor,
    *,
    task: str = CLASSIFICATION,
    batch_size: int = 0,
    keep: list[Tensor] | None = None,
) -> Scores:
    """Score a network and everything in it that predicts, in one pass; see `evaluate`.

    Args:
        network: logits from inputs.
        inputs: (N, C, H, W).
        labels: as in `evaluate`.
        task: see `models.losses`.
        batch_size: see `evaluate`.
        keep: if given, what the network itself answers is added to it, batch by batch, float32 [n, outputs].
    """
    (scores,) = evaluate_together(
        [network],
        inputs,
        labels,
        one_pass=lambda x: [predictions(network, x)],
        task=task,
        batch_size=batch_size,
        keep=None if keep is None else [keep],
    )
    return scores


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
        allowed: see `score_of`.
    """
    return score_of(answers(network, inputs, batch_size=batch_size), labels, task=task, allowed=allowed)


@torch.no_grad()
def score_of(
    outputs: Iterable[Tensor], labels: Tensor, *, task: str = CLASSIFICATION, allowed: Collection[int] | None = None
) -> Score:
    """Score what a network answered.

    Args:
        outputs: float32 [n, outputs], batch by batch in the order of the labels.
        labels: (N,) int64, or (N, outputs) of another task.
        task: see `models.losses`.
        allowed: if given, the prediction is the best of these labels only (a device that knows which labels it has).
    """
    loss, correct, start, closed = 0.0, 0.0, 0, None
    for logits in outputs:
        y = labels[start : start + len(logits)]
        start += len(logits)
        loss += loss_of(task, logits, y, "sum").item()
        if allowed is not None and task == CLASSIFICATION:
            if closed is None:
                closed = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
                closed[list(allowed)] = False
            logits = logits.masked_fill(closed, -torch.inf)
        correct += right(task, logits, y).item()
    count = len(labels)
    return _score(task, loss, correct, count) if count else Score(float("nan"), float("nan"), 0)


def answers(network: nn.Module, inputs: Inputs, *, batch_size: int = 0) -> Iterator[Tensor]:
    """What a network answers, batch by batch, float32 [n, outputs]; in evaluation mode, and it stays in that mode."""
    network.eval()
    for x in inputs.split(batch_size or batch_of(inputs)):
        with torch.no_grad():
            found = network(x).float()
        yield found


def _score(task: str, loss: float, correct: float, count: int) -> Score:
    return Score(loss / count, float("nan") if task == REGRESSION else correct / count, count)
