"""FedNova against its plain rule, effective steps against our SGD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from client_app.sgd import SGD
from models import Layout, Plan
from protocol import Optimiser
from strategies.aggregation import (
    ByMethod,
    FedNova,
)
from tests.models.generators import Client, layouts, plain_sums, state_of
from tests.strategies.aggregation.quadratics import fixed_point
from tests.strategies.aggregation.replies import Reply, averaged, rounds, update_of


def plain_fednova(
    layout: Layout, previous: dict[str, Tensor], replies: Sequence[Reply], momentum: float
) -> dict[str, Tensor]:
    """x + τ_eff Σ p d / Σ p over holders, in float64, with ‖a‖₁ from the recursion of momentum."""
    lengths = []
    for reply in replies:
        velocity = moved = 0.0
        for _ in range(reply.steps):
            velocity = momentum * velocity + 1
            moved += velocity
        lengths.append(moved)
    clients = [
        Client(
            plan=reply.plan,
            difference=reply.difference.double() / length,
            numerator=reply.weight,
            denominator=reply.weight,
            labels=reply.labels,
        )
        for reply, length in zip(replies, lengths, strict=True)
    ]
    weights = [reply.weight for reply in replies]
    effective = sum(p * length for p, length in zip(weights, lengths, strict=True)) / sum(weights)
    numerators, denominators, holders = plain_sums(layout, clients)
    return {
        name: (value + torch.where(holders[name] > 0, effective * numerators[name] / denominators[name], 0.0)).float()
        for name, value in previous.items()
    }


@settings(max_examples=50, deadline=None)
@given(st.data(), layouts(), st.sampled_from((0.0, 0.5, 0.9)))
def test_fednova_is_the_plain_rule(data: st.DataObject, layout: Layout, momentum: float) -> None:
    replies, previous = data.draw(rounds(layout)), state_of(layout, 0)
    new = averaged(FedNova(), layout, previous, replies, Optimiser(0.1, momentum))
    for name, expected in plain_fednova(layout, previous, replies, momentum).items():
        torch.testing.assert_close(new[name], expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.data(), layouts(), st.integers(1, 100), st.sampled_from((0.0, 0.9)))
def test_fednova_with_equal_steps_is_the_methods_mean(
    data: st.DataObject, layout: Layout, steps: int, momentum: float
) -> None:
    previous = state_of(layout, 0)
    replies = [
        Reply(plan=r.plan, difference=r.difference, loss=1.0, steps=steps, weight=r.weight, labels=r.labels)
        for r in data.draw(rounds(layout))
    ]
    new = averaged(FedNova(), layout, previous, replies, Optimiser(0.1, momentum))
    for name, expected in averaged(ByMethod(), layout, previous, replies).items():
        torch.testing.assert_close(new[name], expected, rtol=5e-7, atol=1e-7)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("steps", [1, 2, 7, 300])
def test_effective_steps_are_what_our_sgd_moves_by(momentum: float, steps: int) -> None:
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    sgd = SGD([parameter], Optimiser(1.0, momentum))
    for _ in range(steps):
        parameter.grad = torch.ones(1, dtype=torch.float64)
        sgd.step()
    update = update_of(Reply(plan=Plan(), difference=torch.zeros(1), steps=steps), Optimiser(1.0, momentum))
    assert FedNova().effective_steps(update) == pytest.approx(-parameter.item(), rel=1e-9)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("steps", [1, 2, 7, 300])
def test_effective_steps_include_the_pull_of_the_regulariser(momentum: float, steps: int) -> None:
    """A constant gradient with α(θ - θ₀) on top, as `client_app.feddyn` adds it; the paper's form without momentum."""
    rate, alpha = 0.2, 0.3
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    sgd = SGD([parameter], Optimiser(rate, momentum))
    for _ in range(steps):
        parameter.grad = 1 + alpha * parameter.detach().clone()
        sgd.step()
    update = replace(
        update_of(Reply(plan=Plan(), difference=torch.zeros(1), steps=steps), Optimiser(rate, momentum)),
        dynamic_alpha=alpha,
    )
    found = FedNova().effective_steps(update)
    assert found == pytest.approx(-parameter.item() / rate, rel=1e-9)
    if not momentum:
        assert found == pytest.approx((1 - (1 - alpha * rate) ** steps) / (alpha * rate), rel=1e-9)
    assert FedNova().weigh(update, 1.0) == (1 / found, 1.0)


def test_a_pull_that_throws_clients_about_is_refused() -> None:
    update = replace(
        update_of(Reply(plan=Plan(), difference=torch.zeros(1), steps=2), Optimiser(0.1)), dynamic_alpha=30.0
    )
    with pytest.raises(ValueError, match=r"^2 steps with dynamic-alpha = 30 come to -1"):
        FedNova().effective_steps(update)


def test_fednova_ends_in_the_optimum_where_unequal_steps_pull_the_mean_away() -> None:
    at = {rule: fixed_point(rule, (1.0, 1.0), (-1.0, 1.0), 4e-3, (1, 9)) for rule in (ByMethod(), FedNova())}
    assert at[ByMethod()] == pytest.approx(0.8, abs=0.02)  # Σ τ t / Σ τ
    assert at[FedNova()] == pytest.approx(0.0, abs=0.02)
