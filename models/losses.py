"""What a network's outputs are asked for: a class, several answers of yes or no, or numbers.

A label is a class (int64 [N]) or, of the other tasks, one number for every output (float32 [N, outputs]).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CLASSIFICATION, REGRESSION, MULTI_LABEL = TASKS = ("classification", "regression", "multi-label")


def loss_of(task: str, outputs: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Loss of some examples: cross entropy; squared error, or cross entropy of yes or no, as a mean over the outputs.

    Args:
        task: one of `TASKS`.
        outputs: [N, outputs].
        labels: see above.
        reduction: over the examples: "mean", "sum" or "none".

    Raises:
        ValueError: another task.
    """
    if task == CLASSIFICATION:
        return F.cross_entropy(outputs, labels, reduction=reduction)
    if task == REGRESSION:
        each = F.mse_loss(outputs, labels, reduction="none").mean(1)
    elif task == MULTI_LABEL:
        each = F.binary_cross_entropy_with_logits(outputs, labels, reduction="none").mean(1)
    else:
        raise ValueError(f"task {task!r}: allowed is {', '.join(TASKS)}")
    return each if reduction == "none" else each.sum() if reduction == "sum" else each.mean()


def right(task: str, outputs: Tensor, labels: Tensor) -> Tensor:
    """How many examples are answered rightly; of several answers to one its share, of numbers none."""
    if task == CLASSIFICATION:
        return (outputs.argmax(1) == labels).sum()
    if task == MULTI_LABEL:
        return ((outputs > 0) == (labels > 0.5)).float().mean(1).sum()
    return torch.zeros((), dtype=torch.int64, device=outputs.device)
