"""How a part does on a device's own test examples."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data import Split
from models.evaluation import answers, score_of
from models.losses import CLASSIFICATION, REGRESSION


def local_scores(
    module: nn.Module, test: Split, labels: Collection[int], *, task: str, device: torch.device, metric: str = ""
) -> dict[str, float]:
    """Mean loss, accuracy, and accuracy among the labels that this device has; numbers are neither right nor wrong: 0.

    Args:
        module: with the part loaded, and statistics where it needs some; left in evaluation mode.
        test: at least one example.
        labels: of the device; none: all.
        task: see `models.losses`.
        device: where to compute.
        metric: a name in `MEASURES` that is wanted besides, as "score"; left out where these examples do not say it.
    """
    test = test.to(device)
    outputs = list(answers(module, test.held))
    plain = score_of(outputs, test.labels, task=task)
    own = score_of(outputs, test.labels, allowed=labels or None, task=task)
    shares = (0.0, 0.0) if task == REGRESSION else (plain.accuracy, own.accuracy)
    found = {"loss": plain.loss, "accuracy": shares[0], "accuracy-own-labels": shares[1]}
    measure = MEASURES.get(metric)
    score = None if measure is None else measure(task, torch.cat(outputs), test.labels)
    return found if score is None else {**found, "score": score}


def _yes_and_no(task: str, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """What is predicted and what is right, one bool for every example and class (or question): [N, classes]."""
    if task == CLASSIFICATION:
        count = outputs.shape[1]
        return F.one_hot(outputs.argmax(1), count).bool(), F.one_hot(labels, count).bool()
    return outputs > 0, labels > 0.5


def f1(task: str, outputs: Tensor, labels: Tensor) -> float | None:
    """Mean F1 over the classes that occur, in the labels or in what is predicted; None if none does."""
    said, true = _yes_and_no(task, outputs, labels)
    hits, wrong = (said & true).sum(0), (said ^ true).sum(0)
    there = hits + wrong > 0
    return float((2 * hits[there] / (2 * hits[there] + wrong[there])).double().mean()) if bool(there.any()) else None


def balanced_accuracy(task: str, outputs: Tensor, labels: Tensor) -> float | None:
    """Mean over the classes that the labels have of the share that is found."""
    said, true = _yes_and_no(task, outputs, labels)
    counts = true.sum(0)
    there = counts > 0
    return float(((said & true).sum(0)[there] / counts[there]).double().mean()) if bool(there.any()) else None


def auc(task: str, outputs: Tensor, labels: Tensor) -> float | None:
    """Mean area under the ROC curve, of each class against all others; None if no class has examples and others.

    The share of pairs, one example of the class and one of another, that are in the right order; equal ones are half.
    """
    _, true = _yes_and_no(task, outputs, labels)
    shares = outputs.double().softmax(1) if task == CLASSIFICATION else outputs.double()
    found = list[float]()
    for column, wanted in zip(shares.T, true.T, strict=True):
        yes, no = column[wanted], column[~wanted].sort().values.contiguous()
        if len(yes) and len(no):
            below, up_to = (torch.searchsorted(no, yes.contiguous(), side=side) for side in ("left", "right"))
            found.append(float((below + up_to).sum()) / (2 * len(yes) * len(no)))
    return sum(found) / len(found) if found else None


def mae(task: str, outputs: Tensor, labels: Tensor) -> float | None:
    """Mean absolute error, of standardised targets."""
    del task
    return float((outputs - labels).abs().double().mean())


Measure = Callable[[str, Tensor, Tensor], float | None]
MEASURES: Mapping[str, Measure] = {"f1": f1, "balanced-accuracy": balanced_accuracy, "auc": auc, "mae": mae}
