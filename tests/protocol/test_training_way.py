"""Who is trained by autograd, and why: the same answer for a device and for the server that writes it down."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from torch import nn

from models.algebra.plans import Plan
from models.networks.build import build_part
from models.networks.complete import completed
from models.networks.spec import NetworkSpec
from models.recent import Recent
from protocol import AdversarialTraining, Work, training_way
from protocol.training_way import why_loop

CNN = completed(NetworkSpec("cnn", (1, 8, 8), 10, widths=(4, 8), scaler=True))


@pytest.mark.parametrize(
    ("network", "changes", "why"),
    [
        (CNN, {}, ""),
        (replace(CNN, norm="none"), {}, ""),
        (completed(NetworkSpec("mlp", (7,), 3, widths=(16, 8))), {}, ""),
        (CNN, {"work": Work(train_as="loop")}, "train-as is loop"),
        (CNN, {"work": Work(mixed_precision=True)}, "mixed precision"),
        (CNN, {"work": Work(adversarial=AdversarialTraining(weight=0.5))}, "adversarial"),
        (CNN, {"objective": "deep-supervision"}, "objective deep-supervision"),
        (CNN, {"regularised": True}, "regulariser"),
        (replace(CNN, norm="group"), {}, "a GroupNorm"),
        (replace(CNN, norm="batch-per-width", rates=(Fraction(1, 2), Fraction(1))), {}, "a BatchNormPerWidth"),
        (replace(CNN, exits="plain"), {}, "parameters that its output does not depend on"),
        (replace(CNN, dual=True), {}, "a DualNorm"),
        (replace(CNN, bases=2), {}, "a BaseNets"),
        (replace(CNN, task="multi-label"), {}, "task multi-label"),
        (CNN, {"plan": Plan(keep=Fraction(1, 2))}, "masked"),
        (CNN, {"work": Work(batch_size=1 << 20)}, "convolutions of"),
        (completed(NetworkSpec("mlp", (1024,), 3, widths=(512, 8))), {"plan": Plan()}, "layer of 524,288 weights"),
        (completed(NetworkSpec("mlp", (1024,), 3, widths=(512, 8))), {}, ""),
        (completed(NetworkSpec("gru", (12,), 5, vocabulary=11)), {}, "a Tokens"),
    ],
)
def test_the_way_and_the_reason(network: NetworkSpec, changes: dict[str, Any], why: str) -> None:
    asked: dict[str, Any] = {"plan": Plan(Fraction(1, 2)), "work": Work(), "objective": "cross-entropy"}
    asked |= {"regularised": False} | changes
    found = why_loop(network, asked["plan"], asked["work"], asked["objective"], regularised=asked["regularised"])
    if why:
        assert why in found
    else:
        assert found == ""


def test_plans_of_one_shape_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window that moves, or drawn units, are another plan for every device and round."""
    built = []
    monkeypatch.setattr(training_way, "_known", Recent(8))

    def counted(spec: NetworkSpec, plan: Plan) -> nn.Module:
        built.append(plan)
        return build_part(spec, plan)

    monkeypatch.setattr(training_way, "build_part", counted)
    for shift in range(5):
        assert why_loop(CNN, Plan(Fraction(1, 2), shift=shift), Work(), "cross-entropy", regularised=False) == ""
    assert len(built) == 1
