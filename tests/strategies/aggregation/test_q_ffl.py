"""q-FFL against its paper's formulas, in closed form, and in an optimum of its own."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models import Layout, Plan
from models.algebra.average import norm_of
from protocol import Optimiser
from strategies.aggregation import (
    QFedAvg,
    Unweighted,
)
from tests.models.generators import Client, all_bits, layouts, plain_sums, state_of
from tests.strategies.aggregation.quadratics import fixed_point
from tests.strategies.aggregation.replies import RATES, Reply, averaged, rounds, update_of

Q = st.sampled_from((0.001, 0.1, 0.5, 1.0, 2.0, 5.0))


def plain_q_fedavg(
    layout: Layout, previous: dict[str, Tensor], replies: Sequence[Reply], q: float, rate: float
) -> dict[str, Tensor]:
    """Algorithm 2 as the paper has it, in float64: w - Σ F^q g / Σ h with g = L (w - w_k), over holders."""
    lipschitz = 1 / rate
    clients = []
    for reply in replies:
        gradient = -lipschitz * reply.difference.double()
        h = q * reply.loss ** (q - 1) * float(gradient.square().sum()) + lipschitz * reply.loss**q
        clients.append(
            Client(plan=reply.plan, difference=gradient, numerator=reply.loss**q, denominator=h, labels=reply.labels)
        )
    numerators, denominators, holders = plain_sums(layout, clients)
    return {
        name: (value - torch.where(holders[name] > 0, numerators[name] / denominators[name], 0.0)).float()
        for name, value in previous.items()
    }


@settings(max_examples=50, deadline=None)
@given(st.data(), layouts(), Q, RATES)
def test_q_fedavg_is_the_papers_formula(data: st.DataObject, layout: Layout, q: float, rate: float) -> None:
    replies, previous = data.draw(rounds(layout)), state_of(layout, 0)
    new = averaged(QFedAvg(q), layout, previous, replies, Optimiser(rate))
    for name, expected in plain_q_fedavg(layout, previous, replies, q, rate).items():
        assert new[name].dtype == previous[name].dtype == torch.float32
        torch.testing.assert_close(new[name], expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.data(), layouts(), RATES)
def test_q_0_is_the_unweighted_mean_bit_for_bit(data: st.DataObject, layout: Layout, rate: float) -> None:
    """I1, whatever the losses and the method's weights."""
    replies, previous = data.draw(rounds(layout)), state_of(layout, 0)
    new = averaged(QFedAvg(0.0), layout, previous, replies, Optimiser(rate))
    assert all_bits(new) == all_bits(averaged(Unweighted(), layout, previous, replies))


@settings(max_examples=50, deadline=None)
@given(st.data(), layouts(), Q, RATES)
def test_one_participant_closed_form_and_no_step_is_longer_than_the_longest(
    data: st.DataObject, layout: Layout, q: float, rate: float
) -> None:
    """I2 and I3."""
    replies = data.draw(rounds(layout))
    for reply in replies:
        norm = norm_of(reply.difference)
        a, b = QFedAvg(q).weigh(update_of(reply, Optimiser(rate)), norm)
        assert 0 < a <= b
        g, loss = norm / rate, reply.loss
        assert a / b == pytest.approx(loss**q / rate / (q * loss ** (q - 1) * g * g + loss**q / rate), rel=1e-9)
    previous = {name: torch.zeros(tensor.shape) for name, tensor in layout.tensors.items()}
    whole = [Reply(plan=Plan(), difference=torch.randn(layout.parameters), loss=reply.loss) for reply in replies]
    new = averaged(QFedAvg(q), layout, previous, whole, Optimiser(rate))
    length = torch.cat([tensor.flatten() for tensor in new.values()]).norm().item()
    assert length <= (1 + 1e-5) * max(norm_of(reply.difference) for reply in whole)


@settings(max_examples=50, deadline=None)
@given(st.data(), layouts(), Q, RATES, st.floats(0.01, 10))
def test_equal_losses_and_norms_shorten_the_mean(
    data: st.DataObject, layout: Layout, q: float, rate: float, loss: float
) -> None:
    """I4: c / (c + q G² / L) of the mean step."""
    count = data.draw(st.integers(1, 5))
    differences = [torch.randn(layout.parameters) for _ in range(count)]
    whole = [Reply(plan=Plan(), difference=difference / difference.norm(), loss=loss) for difference in differences]
    previous = {name: torch.zeros(tensor.shape) for name, tensor in layout.tensors.items()}
    new, mean = (averaged(rule, layout, previous, whole, Optimiser(rate)) for rule in (QFedAvg(q), Unweighted()))
    gradient = 1 / rate
    for name, tensor in new.items():
        torch.testing.assert_close(tensor, mean[name] * loss / (loss + q * gradient**2 * rate), rtol=1e-4, atol=1e-6)


def test_larger_q_closes_the_gap_between_two_quadratics() -> None:
    """I6; the fixed point of one step is where Σ F^q F' = 0, which bisection finds too."""
    curvatures, targets = (1.0, 4.0), (-1.0, 1.0)
    gaps = []
    for q in (0.0, 1.0, 5.0):
        w = fixed_point(QFedAvg(q), curvatures, targets, 0.05, (1, 1))
        losses = [1 + c * (w - t) ** 2 / 2 for c, t in zip(curvatures, targets, strict=True)]
        gaps.append(abs(losses[0] - losses[1]))
        slope = sum(f**q * c * (w - t) for f, c, t in zip(losses, curvatures, targets, strict=True))
        assert slope == pytest.approx(0, abs=1e-3 * max(losses) ** q)
    assert gaps[0] > 1.5 * gaps[1] > 1.5 * 1.5 * gaps[2]


@pytest.mark.parametrize("loss", [0.0, -1.0, 1e-300, 1e-12, 1e-4, 3.0, 1e6, 1e300])
@pytest.mark.parametrize("q", [0.0, 1e-3, 1.0, 15.0, 500.0])
@pytest.mark.parametrize("norm", [0.0, 1e-12, 1.0, 1e6, 1e18])
def test_no_loss_and_no_norm_overflows(loss: float, q: float, norm: float) -> None:
    """What float32 cannot add up would reject the reply of a client that is served very well, or very badly."""
    a, b = QFedAvg(q).weigh(update_of(Reply(plan=Plan(), difference=torch.zeros(1), loss=loss), Optimiser(0.1)), norm)
    assert 0 <= a <= b
    assert isfinite(b)
    assert 1e-25 < b < 1e26
    assert norm * a < 1e45
    floored = max(loss, 1e-10)
    # The client's own step is right even where its weight among others is not.
    assert a / b == pytest.approx(1 / (1 + q * norm**2 / (0.1 * floored)), rel=1e-9)
    if abs(q * log(floored)) < 50 and norm == 0:
        assert b == pytest.approx(floored**q)
