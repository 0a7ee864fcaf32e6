"""Loss and accuracy of a network on tensors, independent of how the examples are batched."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Score:
    """Mean cross entropy (nats), share of correct predictions, and the number of examples."""

    loss: float
    accuracy: float
    examples: int


@torch.no_grad()
def evaluate(
    network: nn.Module, inputs: Tensor, labels: Tensor, *, batch_size: int = 500, allowed: Collection[int] | None = None
) -> Score:
    """Score a network in evaluation mode; it stays in that mode.

    Args:
        network: logits from inputs.
        inputs: (N, C, H, W).
        labels: (N,) int64.
        batch_size: examples a forward pass; changes no result beyond float order.
        allowed: if given, the prediction is the best of these labels only (a device that knows which labels it has).
    """
    network.eval()
    closed = None
    loss, correct = 0.0, 0
    for x, y in zip(torch.split(inputs, batch_size), torch.split(labels, batch_size), strict=True):
        logits = network(x).float()
        loss += F.cross_entropy(logits, y, reduction="sum").item()
        if allowed is not None:
            if closed is None:
                closed = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
                closed[list(allowed)] = False
            logits = logits.masked_fill(closed, -torch.inf)
        correct += int((logits.argmax(1) == y).sum().item())
    count = len(labels)
    return Score(loss / count, correct / count, count) if count else Score(float("nan"), float("nan"), 0)
