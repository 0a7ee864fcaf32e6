"""Training with backward passes of their own is the loop over autograd, but for the order of sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from client_app import fused_training
from client_app.flat_sgd import FlatSGD
from client_app.fused_training import Learner, train_fused
from client_app.model_cache import LocalModel
from client_app.objectives.cross_entropy import absent_for
from client_app.sgd import SGD
from client_app.training import Trained, train
from data import AUGMENTATIONS, Split
from data.stored import Scale, Stored
from models.algebra.plans import Plan
from models.losses import loss_of
from models.networks.build import initial_state
from models.networks.complete import completed
from models.networks.spec import NetworkSpec
from models.randomness import torch_generator
from protocol import Measurements, Optimiser, Work

PLAN, CPU = Plan(Fraction(1, 2)), torch.device("cpu")
SPECS = {
    "cnn": completed(NetworkSpec("cnn", (1, 8, 8), 5, widths=(8, 12, 16), scaler=True)),
    "mlp": completed(NetworkSpec("mlp", (1, 8, 8), 5, widths=(16, 8), scaler=True)),
}
RULE = Optimiser(0.05, 0.9, weight_decay=5e-4, clip_norm=1.0)
WORK = Work(local_epochs=2, batch_size=8, measure=Measurements(squared_loss=True))


def _model(spec: NetworkSpec) -> LocalModel:
    model = LocalModel(spec, PLAN, CPU)
    state = initial_state(spec, torch_generator(1, 0, "test", "state"))
    model.load(spec, PLAN, torch.cat([tensor.reshape(-1) for tensor in state.values()]), sliced=False)
    return model


def _examples(count: int, labels: int = 5) -> Split:
    draws = torch_generator(2, count, "test", "examples")
    return Split(torch.randn(count, 1, 8, 8, generator=draws), torch.randint(labels, (count,), generator=draws))


def _in_both_ways(
    name: str, examples: Split, rule: Optimiser, work: Work, *, labels: int = 5, augment: str = "none"
) -> list[tuple[Tensor, Trained]]:
    found = []
    absent = absent_for("masked-cross-entropy", 5, range(labels))
    for by_hand in (True, False):
        model, draws = _model(SPECS[name]), torch_generator(3, 0, "test", "batches")
        augmentation = AUGMENTATIONS[augment]
        if by_hand:
            learner = Learner(examples=examples, draws=draws, absent=absent)
            flats = model.flat[None]
            (trained,) = train_fused(model.fused, flats, [learner], rule, work, into=flats, augmentation=augmentation)
        else:

            def loss(x: Tensor, y: Tensor, network: Callable[..., Any] = model.module) -> tuple[Tensor, Tensor]:
                logits = network(x) if absent is None else network(x).masked_fill(absent, 0.0)
                return loss_of("classification", logits, y), logits

            trained = train(model.module, examples, loss, rule, work, draws=draws, augmentation=augmentation)
        found.append((model.flat - model.start, trained))
    return found


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(
    ("rule", "work"),
    [
        (RULE, WORK),
        (Optimiser(0.05), replace(WORK, local_steps=5)),
        (Optimiser(0.05, clip_norm=0.1), WORK),
        (Optimiser(0.05, 0.5, proximal=0.3), WORK),
    ],
)
@pytest.mark.parametrize("count", [29, 17, 3])  # a short last batch; one that joins the one before it; a single batch
def test_a_round_is_the_loop_s(name: str, rule: Optimiser, work: Work, count: int) -> None:
    (ours, said), (theirs, wanted) = _in_both_ways(name, _examples(count), rule, work)
    assert (ours - theirs).norm() <= 2e-3 * theirs.norm()
    assert said.steps == wanted.steps
    assert (said.loss, said.accuracy) == pytest.approx((wanted.loss, wanted.accuracy), rel=1e-4)
    assert said.loss_square == pytest.approx(wanted.loss_square, rel=1e-4)


def test_what_steps_came_to() -> None:
    """The loss is the right class's alone, whatever the others' are; of equal probabilities the first is the answer."""
    one, other = fused_training._Said(squared=False), fused_training._Said(squared=False)
    one.add(torch.tensor([[-0.5, -1.0], [-torch.inf, -1.0], [-3.0, -2.0]]), torch.tensor([0, 1]))
    other.add(torch.tensor([[-2.0], [-1.0], [-1.0]]), torch.tensor([1]))
    fused_training._look([one, fused_training._Said(squared=False), other])
    assert (one.trained(0.0).loss, one.trained(0.0).accuracy) == (0.75, 0.5)
    assert (other.trained(0.0).loss, other.trained(0.0).accuracy) == (1.0, 1.0)


def test_absent_classes_and_augmentation() -> None:
    for labels, augment in ((3, "none"), (5, "crop-flip")):
        (ours, said), (theirs, wanted) = _in_both_ways(
            "cnn", _examples(29, labels), RULE, WORK, labels=labels, augment=augment
        )
        assert (ours - theirs).norm() <= 2e-3 * theirs.norm()
        assert said.loss == pytest.approx(wanted.loss, rel=1e-4)


def test_the_same_again_is_the_same_bit_for_bit_whatever_was_trained_before() -> None:
    """Buffers are used again, by clients with other numbers of examples in between."""
    model, spec = _model(SPECS["cnn"]), SPECS["cnn"]
    start, found = model.start.clone(), []
    for count in (29, 17, 29):
        model.flat.copy_(start)
        learner = Learner(examples=_examples(count), draws=torch_generator(3, 0, "test", "batches"))
        train_fused(model.fused, model.flat[None], [learner], RULE, WORK, into=model.flat[None])
        found.append(model.flat.clone())
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])
    assert spec.scaler


@pytest.mark.parametrize("rule", [RULE, Optimiser(0.1), Optimiser(0.1, clip_norm=9.0), Optimiser(0.1, proximal=0.2)])
def test_the_flat_rule_is_that_of_every_tensor(rule: Optimiser) -> None:
    draws = torch_generator(4, 0, "test", "rule")
    start = torch.randn(2, 12, generator=draws)
    flat = start.clone()
    ours = [FlatSGD(row, rule) for row in flat]
    tensors = [[torch.nn.Parameter(row[:8].clone()), torch.nn.Parameter(row[8:].clone())] for row in start]
    theirs = [SGD(parameters, rule) for parameters in tensors]
    alone = torch.nn.Parameter(torch.ones(1))
    without = SGD([alone], replace(rule, clip_norm=0.0))
    for _ in range(4):
        alone.grad = torch.zeros(1)
        without.step()
        drawn = torch.randn(2, 12, generator=draws)
        for one, row in zip(ours, drawn.clone(), strict=True):
            one.step(row)
        for row, parameters, sgd in zip(drawn, tensors, theirs, strict=True):
            parameters[0].grad, parameters[1].grad = row[:8].clone(), row[8:].clone()
            sgd.step()
    assert ours[0].untouched == pytest.approx(alone.item(), rel=1e-5)
    expected = torch.stack([torch.cat([one.detach() for one in parameters]) for parameters in tensors])
    torch.testing.assert_close(flat, expected, atol=1e-6, rtol=1e-5)


def test_what_is_stored_is_taken_a_batch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randint(256, (20, 1, 8, 8), generator=torch_generator(4, 0, "test", "values"), dtype=torch.uint8)
    scale = Scale(mean=torch.full((1, 1, 1), 100.0), std=torch.full((1, 1, 1), 50.0))
    stored = Stored(values=values, rows=torch.arange(19, -1, -1), scale=scale)
    labels = torch.arange(20) % 5
    ready = _in_both_ways("mlp", Split(stored.whole(), labels), RULE, WORK)
    monkeypatch.setattr(Stored, "whole", lambda _: pytest.fail("all of them at once"))
    for (flat, trained), (wanted, said) in zip(
        _in_both_ways("mlp", Split(stored, labels), RULE, WORK), ready, strict=True
    ):
        assert torch.equal(flat, wanted)
        assert trained.loss == said.loss
