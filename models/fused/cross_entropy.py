"""Mean cross entropy of every client's batch, and its gradient by the logits."""

from __future__ import annotations

import torch
from torch import Tensor


def one_hot(labels: Tensor, classes: int, like: Tensor) -> Tensor:
    """Labels [N] as rows [N, classes] of 0 and one 1."""
    return torch.zeros(len(labels), classes, dtype=like.dtype).scatter_(1, labels.unsqueeze(1), 1.0)


def log_probabilities(logits_KCB: Tensor, absent_KC1: Tensor | None) -> Tensor:
    """Logarithms of the probabilities of classes; the logits of absent ones count as 0 (HeteroFL §3.3)."""
    if absent_KC1 is not None:
        logits_KCB.masked_fill_(absent_KC1, 0.0)
    return torch.log_softmax(logits_KCB, 1)


def gradient(log_probabilities_KCB: Tensor, wanted_KCB: Tensor, absent_KC1: Tensor | None) -> Tensor:
    """The gradient of -Σ wanted · log p / B by the logits, a new tensor."""
    found = log_probabilities_KCB.exp().sub_(wanted_KCB).mul_(1 / log_probabilities_KCB.shape[2])
    return found if absent_KC1 is None else found.masked_fill_(absent_KC1, 0.0)
