"""What is passed through a network at a time is bounded in bytes, wherever nothing is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data import Split
from flotilla.serving.export import _compared
from flotilla.serving.formats.runtime import logits_of
from flotilla.serving.predict import predict
from models.adversary import Attack, robust_accuracy
from models.evaluation import batch_of

_COUNT = 20
_INPUTS = torch.zeros(1, 3, 512, 512).expand(_COUNT, 3, 512, 512)  # in the memory of one
_LABELS = torch.zeros(_COUNT, dtype=torch.int64)


class _Counted(nn.Module):
    """Answers two classes, and keeps how many examples it was given at a time."""

    most = _COUNT

    def __init__(self) -> None:
        super().__init__()
        self.seen = list[int]()
        self.card = SimpleNamespace(network=SimpleNamespace(task="classification"))
        self.classes = ("a", "b")
        self.preprocess = SimpleNamespace(file=lambda _: _INPUTS)

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return x[:, :2, 0, 0]

    def run(self, x: Any) -> Any:
        self.seen.append(len(x))
        return np.zeros((len(x), 2), dtype=np.float32)

    def answers(self, logits: Tensor) -> Tensor:
        return logits.softmax(1)


def _attacked(model: Any) -> None:
    zero = torch.zeros(3, 1, 1)
    attack = Attack(epsilon=0.1, steps=1, low=zero, high=zero + 1, draws=torch.Generator().manual_seed(0))
    robust_accuracy(model, _INPUTS, _LABELS, attack)


@pytest.mark.parametrize(
    "use",
    [
        lambda model: logits_of(model, _INPUTS),
        lambda model: list(predict(model, [Path("pictures")])),
        lambda model: _compared(model, model, Split(_INPUTS, _LABELS)),
        _attacked,
    ],
    ids=["runtime", "predict", "export", "attack"],
)
def test_passes_are_bounded_in_bytes(use: Callable[[Any], Any]) -> None:
    model = _Counted()
    use(cast(Any, model))
    assert max(model.seen) == batch_of(_INPUTS) < 5
