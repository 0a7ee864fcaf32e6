"""How a part does on a device's own test examples."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from data import Split
from models.evaluation import evaluate
from models.losses import REGRESSION


def local_scores(
    module: nn.Module, test: Split, labels: Collection[int], *, task: str, device: torch.device
) -> dict[str, float]:
    """Mean loss, accuracy, and accuracy among the labels that this device has; numbers are neither right nor wrong: 0.

    Args:
        module: with the part loaded, and statistics where it needs some; left in evaluation mode.
        test: at least one example.
        labels: of the device; none: all.
        task: see `models.losses`.
        device: where to compute.
    """
    test = test.to(device)
    plain = evaluate(module, test.held, test.labels, task=task)
    own = evaluate(module, test.held, test.labels, allowed=labels or None, task=task)
    shares = (0.0, 0.0) if task == REGRESSION else (plain.accuracy, own.accuracy)
    return {"loss": plain.loss, "accuracy": shares[0], "accuracy-own-labels": shares[1]}
