"""Where a rule's rounds end on two quadratics of unlike clients."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from models import Axis, Layout, Plan
from models.algebra.axes import TensorLayout
from protocol import Optimiser
from strategies.aggregation import (
    Aggregation,
)
from tests.strategies.aggregation.replies import Reply, averaged

POINT = Layout({"w": Axis("w", 1)}, {"w": TensorLayout(shape=(1,), dims=(None,))})


def fixed_point(
    rule: Aggregation, curvatures: Sequence[float], targets: Sequence[float], rate: float, steps: Sequence[int]
) -> float:
    """Where rounds of local SGD on F_k(w) = 1 + c_k (w - t_k)² / 2 end."""
    w = torch.zeros(1)
    for _ in range(600):
        replies = []
        for c, target, count in zip(curvatures, targets, steps, strict=True):
            local = w.item()
            for _ in range(count):
                local -= rate * c * (local - target)
            loss = 1 + c * (w.item() - target) ** 2 / 2
            replies.append(Reply(plan=Plan(), difference=torch.tensor([local - w.item()]), loss=loss, steps=count))
        w = averaged(rule, POINT, {"w": w}, replies, Optimiser(rate))["w"]
    return w.item()
