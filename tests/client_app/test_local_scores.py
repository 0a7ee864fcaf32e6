"""What a device says of its own test examples: held against torchmetrics where every class is there, and where not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from client_app.local_scores import MEASURES, auc, balanced_accuracy, f1, local_scores
from data import Split
from models.losses import CLASSIFICATION, MULTI_LABEL, REGRESSION
from models.vision_library import torchvision_part

torchvision_part("datasets")  # which torchmetrics imports, has to be imported in one way only
classification = pytest.importorskip("torchmetrics.functional.classification", reason="the extra `metrics`")

OUTPUTS = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)).round(decimals=1)  # with equal ones
LABELS = torch.arange(60) % 4
ANSWERS = (OUTPUTS.roll(1, 0) > 0.3).float()


@pytest.mark.parametrize(("name", "rule"), [("f1", "f1_score"), ("balanced-accuracy", "accuracy"), ("auc", "auroc")])
def test_where_all_classes_are_there_it_is_the_usual_mean(name: str, rule: str) -> None:
    wanted = getattr(classification, f"multiclass_{rule}")(OUTPUTS, LABELS, 4, average="macro")
    assert MEASURES[name](CLASSIFICATION, OUTPUTS, LABELS) == pytest.approx(float(wanted), abs=1e-6)
    if name != "balanced-accuracy":
        wanted = getattr(classification, f"multilabel_{rule}")(OUTPUTS, ANSWERS.long(), 4, average="macro")
        assert MEASURES[name](MULTI_LABEL, OUTPUTS, ANSWERS) == pytest.approx(float(wanted), abs=1e-6)


def test_classes_that_a_device_lacks_count_for_nothing() -> None:
    few = LABELS < 2
    outputs, labels = OUTPUTS[few].clone(), LABELS[few]
    outputs[:, 2:] = -9.0  # never predicted
    said = outputs.argmax(1)
    assert balanced_accuracy(CLASSIFICATION, outputs, labels) == pytest.approx(
        float(torch.stack([(said[labels == one] == one).double().mean() for one in (0, 1)]).mean())
    )
    of_two = classification.multiclass_f1_score(outputs[:, :2], labels, 2, average="macro")
    assert f1(CLASSIFICATION, outputs, labels) == pytest.approx(float(of_two), abs=1e-6)
    shares = outputs.softmax(1)
    each = [float(classification.binary_auroc(shares[:, one], (labels == one).long())) for one in (0, 1)]
    assert auc(CLASSIFICATION, outputs, labels) == pytest.approx(sum(each) / 2, abs=1e-6)
    only = labels == 0
    assert auc(CLASSIFICATION, outputs[only], labels[only]) is None
    assert f1(MULTI_LABEL, -OUTPUTS.abs(), torch.zeros_like(ANSWERS)) is None


def test_only_what_is_asked_for_is_said() -> None:
    test = Split(torch.randn(8, 3), torch.randn(8, 4))
    module = nn.Linear(3, 4)
    plain, more = (
        local_scores(module, test, (), task=REGRESSION, device=torch.device("cpu"), metric=metric)
        for metric in ("", "mae")
    )
    assert set(plain) == {"loss", "accuracy", "accuracy-own-labels"}
    with torch.no_grad():
        assert more["score"] == pytest.approx(float((module(test.inputs) - test.labels).abs().mean()))
