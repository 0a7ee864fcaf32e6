"""Predictions for files: class names and probabilities."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from flotilla.serving.model import TierModel
from models.evaluation import BATCH


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a network says of one example.

    Attributes:
        file: where it stands.
        row: its place there, from 0; None where a file has one.
        name: of the most probable class.
        probability: of that class.
        probabilities: of every class, in the order of the labels.
    """

    file: str
    row: int | None
    name: str
    probability: float
    probabilities: Sequence[float]

    def to_json(self, classes: Sequence[str]) -> str:
        """One line."""
        told = {"file": self.file, "row": self.row, "class": self.name, "probability": self.probability}
        return json.dumps(
            told | {"probabilities": dict(zip(classes, self.probabilities, strict=True))}, ensure_ascii=False
        )

    def columns(self) -> tuple[str, str, str]:
        """File (and row), class and probability, as text."""
        where = self.file if self.row is None else f"{self.file}[{self.row}]"
        name = self.name if self.name.isprintable() and self.name.strip() else json.dumps(self.name)
        return where, name, f"{self.probability:.4f}"


@torch.no_grad()
def predict(model: TierModel, files: Iterable[str | Path]) -> Iterator[Prediction]:
    """Predict every example of every file, in order.

    Raises:
        UnusableInput: a file cannot be read or is no input of this network; those before it have been given out.
    """
    for file in files:
        inputs = model.preprocess.file(Path(file))
        row = 0
        for batch in torch.split(inputs, BATCH):
            for shares in torch.softmax(model(batch).double(), 1).tolist():
                best = max(range(len(shares)), key=shares.__getitem__)
                yield Prediction(
                    file=str(file),
                    row=row if len(inputs) > 1 else None,
                    name=model.classes[best],
                    probability=shares[best],
                    probabilities=shares,
                )
                row += 1
