"""Predictions for files: class names and probabilities."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from flotilla.serving.model import TierModel
from models.evaluation import batch_of
from models.losses import MULTI_LABEL, REGRESSION


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a network says of one example.

    Attributes:
        file: where it stands.
        row: its place there, from 0; None where a file has one.
        name: of the most probable class; of several labels those above one half, with commas between them.
        probability: of that class; None where no class is predicted.
        probabilities: of every class or label, in their order.
        values: what a regression predicts, by name; {} where classes are.
    """

    file: str
    row: int | None
    name: str
    probability: float | None
    probabilities: Sequence[float]
    values: Mapping[str, float] = field(default_factory=dict)

    def to_json(self, classes: Sequence[str]) -> str:
        """One line."""
        if self.values:
            return json.dumps({"file": self.file, "row": self.row, "values": dict(self.values)}, ensure_ascii=False)
        told = {"file": self.file, "row": self.row, "class": self.name, "probability": self.probability}
        return json.dumps(
            told | {"probabilities": dict(zip(classes, self.probabilities, strict=True))}, ensure_ascii=False
        )

    def columns(self) -> tuple[str, ...]:
        """File (and row), class and probability, or the numbers that are predicted, as text."""
        where = self.file if self.row is None else f"{self.file}[{self.row}]"
        name = self.name if self.name.isprintable() and self.name.strip() else json.dumps(self.name)
        if self.values:
            return where, *(f"{of}={value:.6g}" for of, value in self.values.items())
        return (where, name) if self.probability is None else (where, name, f"{self.probability:.4f}")


@torch.no_grad()
def predict(model: TierModel, files: Iterable[str | Path]) -> Iterator[Prediction]:
    """Predict every example of every file, in order.

    Raises:
        UnusableInput: a file cannot be read or is no input of this network; those before it have been given out.
    """
    for file in files:
        inputs = model.preprocess.file(Path(file))
        row = 0
        for batch in torch.split(inputs, batch_of(inputs)):
            for shares in model.answers(model(batch)).tolist():
                yield _prediction(model, str(file), row if len(inputs) > 1 else None, shares)
                row += 1


def _prediction(model: TierModel, file: str, row: int | None, shares: list[float]) -> Prediction:
    task, named = model.card.network.task, dict(zip(model.classes, shares, strict=True))
    if task == REGRESSION:
        return Prediction(file=file, row=row, name="", probability=None, probabilities=(), values=named)
    if task == MULTI_LABEL:
        likely = ",".join(name for name, share in named.items() if share > 0.5) or "none"
        return Prediction(file=file, row=row, name=likely, probability=None, probabilities=shares)
    best = max(range(len(shares)), key=shares.__getitem__)
    name = model.classes[best]
    return Prediction(file=file, row=row, name=name, probability=shares[best], probabilities=shares)
