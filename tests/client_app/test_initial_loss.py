"""The loss before training: of the received part, on everything, as it will be used; and without a trace."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from client_app.device import data_of
from client_app.handlers import answer_train
from models.algebra.plans import Plan
from models.algebra.submodel import flatten
from models.evaluation import evaluate
from models.networks.build import build_part, submodel
from models.networks.spec import NetworkSpec
from models.norms.layers import StaticBatchNorm
from models.statistics import collect, set_statistics
from protocol import Measurements, Objective, Optimiser, Reply, TrainRequest, Work, encode
from tests.client_app.test_model_cache import HALF, RATES, SPECS, device, difference, state_of

EACH = pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
LABELS: dict[str, Any] = {"partition": "labels", "labels-per-client": 3}


def asked(spec: NetworkSpec, plan: Plan = HALF, objective: str = "cross-entropy", **work: int | bool) -> TrainRequest:
    common: dict[str, Any] = {"local_epochs": 1, "batch_size": 64, "device": "cpu"}
    computing = Work(**common | work, measure=Measurements(initial_loss=True))
    return TrainRequest(
        round_number=1,
        nonce="n",
        seed=1,
        network=spec,
        plan=plan,
        work=computing,
        optimiser=Optimiser(0.05, 0.9),
        objective=Objective(objective),
    )


def train(request: TrainRequest, **keys: Any) -> Reply:
    return answer_train(request, encode(flatten(state_of(request.network))), device(**keys))


@EACH
def test_it_is_the_evaluation_of_the_received_part(spec: NetworkSpec) -> None:
    examples = data_of(device()).train
    part = build_part(spec, HALF)
    part.load_state_dict(submodel(spec, HALF).gather(state_of(spec)))
    if any(isinstance(module, StaticBatchNorm) for module in part.modules()):
        set_statistics(part, collect(part, [examples.inputs]))
    expected = evaluate(part, examples.inputs, examples.labels).loss
    assert train(asked(spec)).metrics["loss-before"] == pytest.approx(expected, rel=1e-5)


@EACH
@pytest.mark.parametrize("objective", ["cross-entropy", "masked-cross-entropy"])
def test_measuring_changes_nothing(spec: NetworkSpec, objective: str) -> None:
    measured = asked(spec, objective=objective)
    plain = replace(measured, work=replace(measured.work, measure=Measurements()))
    one, other = train(measured, **LABELS), train(plain, **LABELS)
    assert torch.equal(difference(one, measured), difference(other, plain))
    untimed = [{k: v for k, v in reply.metrics.items() if "seconds" not in k} for reply in (one, other)]
    assert untimed[0] == untimed[1] | {"loss-before": one.metrics["loss-before"]}


def test_ordered_dropout_measures_the_whole_part_and_draws_nothing() -> None:
    spec = SPECS["mlp-per-width"]
    ordered = replace(asked(spec), objective=Objective("ordered-dropout", {"rates": ",".join(map(str, RATES))}))
    assert train(ordered).metrics["loss-before"] == train(asked(spec)).metrics["loss-before"]
    plain = replace(ordered, work=replace(ordered.work, measure=Measurements()))
    assert torch.equal(difference(train(ordered), ordered), difference(train(plain), plain))


def test_work_and_augmentation_do_not_matter() -> None:
    spec = SPECS["cnn"]
    losses = {
        train(asked(spec, batch_size=size, local_steps=steps), augment=augment).metrics["loss-before"]
        for size, steps, augment in ((64, 0, "none"), (7, 0, "none"), (64, 5, "none"), (64, 0, "crop-flip"))
    }
    assert len(losses) == 1


def test_logits_masked_in_training_are_masked_here() -> None:
    spec = SPECS["mlp"]
    examples = data_of(device(**LABELS))
    part = build_part(spec, Plan(Fraction(1)))
    part.load_state_dict(state_of(spec))
    set_statistics(part, collect(part, [examples.train.inputs]))
    part.eval()
    logits = part(examples.train.inputs)
    absent = [label for label in range(10) if label not in examples.labels]
    assert absent
    logits[:, absent] = 0
    expected = F.cross_entropy(logits, examples.train.labels).item()
    found = train(asked(spec, Plan(), "masked-cross-entropy"), **LABELS).metrics["loss-before"]
    assert found == pytest.approx(expected, rel=1e-5)
    assert found != pytest.approx(train(asked(spec, Plan()), **LABELS).metrics["loss-before"], rel=1e-2)


def test_local_steps() -> None:
    spec = SPECS["mlp"]
    for steps in (1, 3, 11):
        assert train(asked(spec, local_steps=steps)).metrics["steps"] == steps


def test_one_full_batch_step_is_minus_eta_times_the_gradient() -> None:
    """What q-FedSGD asks for."""
    spec, examples = SPECS["resnet"], data_of(device()).train
    request = asked(spec, Plan(), local_steps=1, batch_size=10**9)
    part = build_part(spec, Plan())
    part.load_state_dict(state_of(spec))
    F.cross_entropy(part(examples.inputs), examples.labels).backward()  # type: ignore[no-untyped-call]
    gradient = torch.cat([parameter.grad.flatten() for parameter in part.parameters() if parameter.grad is not None])
    torch.testing.assert_close(difference(train(request), request), -0.05 * gradient, rtol=1e-3, atol=1e-5)
