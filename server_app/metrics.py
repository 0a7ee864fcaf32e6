"""How well a network does, by the one number that a run is about and by others beside it.

The headline decides which round was the best, what the table and the report show, and when a run has reached its
target or stopped getting better. Metrics of classes come from torchmetrics (extra `metrics`).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, isfinite, sqrt
from typing import Any

import torch
from torch import Tensor

from data import InputFacts
from data.columns import Columns
from data.vision import vision_datasets
from models.errors import SettingError
from models.losses import CLASSIFICATION, MULTI_LABEL, REGRESSION, loss_of, right

_CLASSES = (CLASSIFICATION, MULTI_LABEL)
# name → tasks that it is of, whether more is better, whether it is a share
METRICS: dict[str, tuple[tuple[str, ...], bool, bool]] = {
    "accuracy": (_CLASSES, True, True),
    "balanced-accuracy": ((CLASSIFICATION,), True, True),
    "f1": (_CLASSES, True, True),
    "auc": (_CLASSES, True, True),
    "rmse": ((REGRESSION,), False, False),
    "mae": ((REGRESSION,), False, False),
    "perplexity": ((CLASSIFICATION,), False, False),
    "loss": ((*_CLASSES, REGRESSION), False, False),
}
_PLAIN = frozenset({"accuracy", "rmse", "mae", "perplexity", "loss"})  # without torchmetrics
AUTO = "auto"
_MOST_EXPONENT = 300.0  # a perplexity beyond e^300 is no number that one could square


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The number that a run is about.

    Attributes:
        name: one of `METRICS`.
        higher: whether more is better.
        share: whether it is a share, shown in per cent.
        target: value at which the run ends; None is never.
        patience: evaluations in a row without a better value after which it ends; 0 is never.
    """

    name: str = "accuracy"
    higher: bool = True
    share: bool = True
    target: float | None = None
    patience: int = 0

    def described(self) -> dict[str, Any]:
        """As a summary has it, for who shows the values."""
        return {"name": self.name, "better": "higher" if self.higher else "lower", "share": self.share}

    def better(self, one: float, other: float) -> bool:
        """Whether one value is better than another."""
        return one > other if self.higher else one < other

    def enough(self, values: Sequence[float]) -> str:
        """Why a run has ended whose evaluations gave these values, in order; "" if it has not."""
        if not values:
            return ""
        if self.target is not None and not self.better(self.target, values[-1]):
            return f"{self.name} {values[-1]:.4g} has reached the target {self.target:g}"
        best = 0
        for place, value in enumerate(values):
            if self.better(value, values[best]):
                best = place
        since = len(values) - 1 - best
        if self.patience and since >= self.patience:
            return f"{self.name} has not got better than {values[best]:.4g} for {since} evaluations (patience)"
        return ""


@dataclass(frozen=True, kw_only=True)
class ClientFigure:
    """How well a device does on its own test examples, by what it says of them: mean loss, accuracy, and what is asked.

    Attributes:
        name: "accuracy", or "loss", "perplexity" or "rmse", which follow from the loss; or another of `METRICS`, which
            a device is asked for. F1, balanced accuracy and AUC are means over the classes that its examples can say
            something of, and one whose examples have a single class says no AUC.
        scale: what a target's unit is in those of the data, for "rmse" and "mae".
    """

    name: str = "accuracy"
    scale: float = 1.0

    @property
    def share(self) -> bool:
        """Whether it is a share, of which more is better; of the others less is."""
        return METRICS[self.name][2]

    higher = share

    @property
    def asked(self) -> str:
        """What a device is asked for besides loss and accuracy; "" is nothing."""
        return "" if self.name in ("accuracy", "loss", "perplexity", "rmse") else self.name

    def of(self, said: Mapping[str, float]) -> float | None:
        """Its value, of what a device says; None if it does not say it."""
        if self.name == "accuracy":
            return said["accuracy"]
        if self.asked:
            return self.scale * said["score"] if "score" in said else None
        if self.name == "rmse":
            return self.scale * sqrt(said["loss"])
        return exp(min(said["loss"], _MOST_EXPONENT)) if self.name == "perplexity" else said["loss"]


def client_figure(chosen: Headline, facts: InputFacts) -> ClientFigure:
    """What the headline is for a device; the nearest that a device says, where it does not say the headline itself."""
    if facts.task != REGRESSION or chosen.name == "loss":
        return ClientFigure(name=chosen.name)
    scale = target_scale(facts)
    return ClientFigure(name=chosen.name, scale=scale[0]) if len(scale) == 1 else ClientFigure(name="loss")


def target_scale(facts: InputFacts) -> tuple[float, ...]:
    """What a target's unit is in those of the data; one for each target, or for all."""
    if facts.details.startswith('{"columns"'):
        return Columns.from_json(facts.details).std or (1.0,)
    return (1.0,)


def headline(name: str, target: str, patience: int, task: str) -> Headline:
    """What the keys say.

    Raises:
        SettingError: a metric that the task does not have, or that needs what is not installed; a target that is none.
    """
    chosen = ("rmse" if task == REGRESSION else "accuracy") if name == AUTO else name
    tasks, higher, share = METRICS[chosen]
    if task not in tasks:
        fitting = ", ".join(other for other, (of, _, _) in METRICS.items() if task in of)
        raise SettingError("metric", name, f"auto or one of {fitting}, where the task is {task}")
    if chosen not in _PLAIN:
        check_installed("metric", name)
    try:
        wanted = float(target) if target else None
    except ValueError:
        wanted = float("nan")
    if wanted is not None and not isfinite(wanted):
        raise SettingError("target", target, f'"", or a value of {chosen} in quotes, such as "0.9"')
    return Headline(name=chosen, higher=higher, share=share, target=wanted, patience=patience)


def check_installed(key: str, value: object) -> None:
    """See that torchmetrics is there.

    Raises:
        SettingError: it is not; says what to install.
    """
    from importlib.util import find_spec

    if find_spec("torchmetrics") is None:
        raise SettingError(key, value, "another one without torchmetrics: pip install 'flotilla[metrics]'")


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What is measured of a network's outputs on the test set.

    Attributes:
        facts: of the task.
        headline: always measured.
        more: whether everything that fits the task is.
    """

    facts: InputFacts
    headline: Headline
    more: bool

    @property
    def needed(self) -> bool:
        """Whether anything is asked for that loss and accuracy do not say."""
        return self.more or self.headline.name not in ("accuracy", "loss")

    def __call__(self, outputs: Tensor, labels: Tensor) -> dict[str, Any]:
        """Measure.

        Args:
            outputs: float32 [N, outputs].
            labels: as in `models.losses`.

        Returns:
            Value by name; with `more` also "per_class" by class, and "confusion" [true][predicted].
        """
        task = self.facts.task
        wanted = [name for name, (tasks, _, _) in METRICS.items() if task in tasks]
        if not self.more:
            wanted = [self.headline.name]
        found: dict[str, Any] = {name: self._one(name, outputs, labels) for name in wanted}
        if self.more and task == CLASSIFICATION:
            found |= self._by_class(outputs, labels)
        return found

    def _one(self, name: str, outputs: Tensor, labels: Tensor) -> float:
        task = self.facts.task
        if name == "loss":
            return float(loss_of(task, outputs, labels))
        if name == "perplexity":
            return exp(min(float(loss_of(task, outputs, labels)), _MOST_EXPONENT))
        if name == "accuracy":
            return float(right(task, outputs, labels)) / len(labels)
        if name in ("rmse", "mae"):
            away = (outputs - labels) * torch.tensor(target_scale(self.facts), device=outputs.device)
            return float(away.square().mean().sqrt() if name == "rmse" else away.abs().mean())
        return _of_torchmetrics(task, name, outputs, labels)

    def _by_class(self, outputs: Tensor, labels: Tensor) -> dict[str, Any]:
        of, count, names = _torchmetrics(), outputs.shape[1], self.facts.classes
        each = of.multiclass_accuracy(outputs, labels, count, average="none").tolist()
        confusion = of.multiclass_confusion_matrix(outputs, labels, count).tolist()
        return {"per_class": dict(zip(names, each, strict=True)), "confusion": confusion}


def _of_torchmetrics(task: str, name: str, outputs: Tensor, labels: Tensor) -> float:
    """Macro means, over the classes or the questions."""
    kind = "multiclass" if task == CLASSIFICATION else "multilabel"
    rule = {"balanced-accuracy": "accuracy", "f1": "f1_score", "auc": "auroc"}[name]
    function, answers = getattr(_torchmetrics(), f"{kind}_{rule}"), labels if task == CLASSIFICATION else labels.long()
    with warnings.catch_warnings():  # a class that the test set does not have counts 0, as the documentation says
        warnings.filterwarnings("ignore", module="torchmetrics")
        return float(function(outputs, answers, outputs.shape[1], average="macro"))


def _torchmetrics() -> Any:
    """Its metrics of classes. It imports torchvision, which has to be imported in one way only."""
    vision_datasets()
    from torchmetrics.functional import classification

    return classification


def value_of(row: Mapping[str, Any]) -> float | None:
    """The headline of a line of metrics, or of a tier's scores in it; None if there is none."""
    found = row.get("score", row.get("accuracy"))
    return None if found is None else float(found)
