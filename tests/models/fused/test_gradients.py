"""The gradient law: backward passes of their own give what autograd gives, for everything that they say they cover."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from models.algebra.plans import Plan
from models.networks.complete import completed
from models.networks.spec import NetworkSpec
from tests.models.fused.support import batch_of, by_autograd, by_hand, drawn, fused

RATES = [Fraction(1), Fraction(1, 3), Fraction(1, 4)]
SPECS = {
    "cnn": completed(NetworkSpec("cnn", (1, 8, 8), 10, widths=(8, 12, 16, 20), scaler=True)),
    "cnn-odd": completed(NetworkSpec("cnn", (3, 13, 11), 7, widths=(4, 8, 8))),
    "cnn-none": completed(NetworkSpec("cnn", (3, 16, 16), 10, widths=(8, 12), norm="none", scaler=True)),
    "cnn-blocks": completed(NetworkSpec("cnn", (2, 64, 64), 4, widths=(8, 16))),  # patches beyond one block
    "cnn-flat": completed(NetworkSpec("cnn-flat", (3, 12, 12), 10, widths=(8, 12, 16), scaler=True)),
    "cnn-flat-none": completed(NetworkSpec("cnn-flat", (3, 12, 12), 10, widths=(8, 12, 16), norm="none")),
    "mlp": completed(NetworkSpec("mlp", (1, 8, 8), 10, widths=(16, 12), scaler=True)),
    "mlp-rows": completed(NetworkSpec("mlp", (7,), 3, widths=(12,), norm="none")),
    "mlp-signal": completed(NetworkSpec("mlp", (3, 16), 5, widths=(12, 8))),
}


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("rate", RATES)
def test_gradients_are_those_of_autograd(name: str, rate: Fraction) -> None:
    """Batches of several sizes one after the other on the same buffers, ragged ones included."""
    spec = SPECS[name]
    network, flat = drawn(spec, Plan(rate), torch.float64)
    ours = fused(network, flat, spec)
    for count in (9, 4, 1, 9):
        x, y = batch_of(spec, count, torch.float64)
        loss, wanted = by_autograd(network, x, y)
        found_loss, found = by_hand(ours, flat[None], [(x, y)])
        torch.testing.assert_close(found_loss[0], loss, rtol=1e-10, atol=1e-10)
        assert (found[0] - wanted).norm() <= 1e-10 * wanted.norm()


@pytest.mark.parametrize("name", SPECS)
def test_in_float32_they_differ_by_rounding(name: str) -> None:
    """In most batches: in one of some, rounding decides which of two activations is the larger, or above 0."""
    spec = SPECS[name]
    away: list[float] = []
    network, flat = drawn(spec, Plan(Fraction(1, 2)), torch.float32)
    ours = fused(network, flat, spec)
    for count in (9, 5, 9, 5, 9):
        x, y = batch_of(spec, count, torch.float32, seed=len(away))
        _, wanted = by_autograd(network, x, y)
        _, found = by_hand(ours, flat[None], [(x, y)])
        away.append(float((found[0] - wanted).norm() / wanted.norm()))
    assert sorted(away)[2] <= 1e-5


@pytest.mark.parametrize("name", ["cnn", "mlp"])
def test_logits_of_absent_classes_count_as_zero(name: str) -> None:
    spec, absent = SPECS[name], torch.zeros(10, dtype=torch.bool)
    absent[[1, 2, 7]] = True
    network, flat = drawn(spec, Plan(), torch.float64)
    x, y = batch_of(spec, 6, torch.float64)
    loss, wanted = by_autograd(network, x, y, absent)
    found_loss, found = by_hand(fused(network, flat, spec), flat[None], [(x, y)], absent[None, :, None])
    torch.testing.assert_close(found_loss[0], loss)
    assert (found[0] - wanted).norm() <= 1e-10 * wanted.norm()


@pytest.mark.parametrize("name", SPECS)
def test_clients_side_by_side_are_clients_alone(name: str) -> None:
    """Each with weights and examples of its own; to rounding, which depends on where in memory a client begins."""
    spec, plan = SPECS[name], Plan(Fraction(1, 2))
    everyone = [drawn(spec, plan, torch.float64, seed) for seed in range(3)]
    network, flat = everyone[0]
    weights = torch.stack([of for _, of in everyone])
    together = fused(network, flat, spec, clients=3)
    for count in (9, 4):
        batches = [batch_of(spec, count, torch.float64, seed) for seed in range(3)]
        losses, gradients = by_hand(together, weights, batches)
        for number, (alone, own) in enumerate(everyone):
            loss, gradient = by_hand(fused(alone, own, spec), own[None], [batches[number]])
            torch.testing.assert_close(loss[0], losses[number])
            assert (gradient[0] - gradients[number]).norm() <= 1e-12 * gradient.norm()


def test_on_images_with_a_background_it_is_nearer_to_float64_than_autograd_is() -> None:
    """Equal pixels round the same way, so their errors add up; autograd in float32 is off by more, not less.

    Against autograd in float32 such images drift apart over a round, which is autograd's rounding.
    """
    spec, plan = completed(NetworkSpec("cnn", (1, 28, 28), 10, widths=(16, 32, 64), scaler=True)), Plan(Fraction(1, 4))
    exact, _ = drawn(spec, plan, torch.float64)
    network, flat = drawn(spec, plan, torch.float32)
    network.load_state_dict(exact.state_dict())
    x, y = batch_of(spec, 32, torch.float32)
    middle = torch.zeros_like(x)
    middle[:, :, 6:22, 8:20] = 1
    x = x * middle - 0.8 * (1 - middle)
    exact.load_state_dict(network.state_dict())
    _, wanted = by_autograd(exact, x.double(), y)
    _, theirs = by_autograd(network, x, y)
    _, ours = by_hand(fused(network, flat, spec), flat[None], [(x, y)])
    assert (ours[0] - wanted).norm() <= (theirs - wanted).norm()
    assert (ours[0] - wanted).norm() <= 3e-5 * wanted.norm()
