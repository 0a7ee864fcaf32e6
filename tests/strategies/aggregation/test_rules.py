"""Aggregation rules: the invariants of q-FFL (I1 to I6 of the reference notes) and of FedNova, over parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite, log
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from client_app.sgd import SGD
from models import Axis, Layout, PartialAverage, Plan
from models.algebra.average import norm_of
from models.algebra.axes import TensorLayout
from models.algebra.plans import submodel
from models.errors import SettingError
from protocol import Optimiser
from strategies.aggregation import (
    AGGREGATIONS,
    Aggregation,
    ByExamples,
    ByMethod,
    FedNova,
    QFedAvg,
    QFedSGD,
    Unweighted,
    Update,
    aggregation_named,
)
from tests.models.generators import Client, all_bits, assert_near, layouts, parts_of, plain_sums, plans, state_of
from tests.support import configured

Q = st.sampled_from((0.001, 0.1, 0.5, 1.0, 2.0, 5.0))
RATES = st.sampled_from((0.01, 0.1, 0.8))
PLAIN = Optimiser(0.1)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a client sends, and what it weighs by the method."""

    plan: Plan
    difference: Tensor
    loss: float = 1.0
    steps: int = 1
    weight: float = 1.0
    labels: tuple[int, ...] | None = None


@st.composite
def rounds(draw: st.DrawFn, layout: Layout) -> list[Reply]:
    """Replies of a round; some share a plan, some a classifier row."""
    choice = draw(st.lists(plans(layout), min_size=1, max_size=3))
    classes = layout.axes["classes"].size
    replies = []
    for _ in range(draw(st.integers(1, 6))):
        plan = draw(st.sampled_from(choice))
        draws = torch.Generator().manual_seed(draw(st.integers(0, 999)))
        replies.append(
            Reply(
                plan=plan,
                difference=0.1 * torch.randn(submodel(layout, plan).numel, generator=draws),
                loss=draw(st.floats(0.01, 10)),
                steps=draw(st.integers(1, 50)),
                weight=draw(st.sampled_from((1.0, 7.0, 0.5))),
                labels=draw(st.none() | st.lists(st.integers(0, classes - 1), unique=True).map(tuple)),
            )
        )
    return replies


def update_of(reply: Reply, optimiser: Optimiser) -> Update:
    metrics = {"num-examples": 10 * reply.weight, "loss-before": reply.loss, "steps": float(reply.steps)}
    return Update(node=0, weight=reply.weight, metrics=metrics, optimiser=optimiser)


def averaged(
    rule: Aggregation,
    layout: Layout,
    previous: dict[str, Tensor],
    replies: Sequence[Reply],
    optimiser: Optimiser = PLAIN,
) -> dict[str, Tensor]:
    """One round, as the server does it."""
    average = PartialAverage(layout)
    parts = parts_of(layout, [Client(plan=reply.plan, difference=reply.difference) for reply in replies])
    for reply in replies:
        norm = norm_of(reply.difference)
        a, b = rule.weigh(update_of(reply, optimiser), norm)
        average.add(parts[reply.plan], reply.difference, a, b, reply.labels, norm=norm)
    return average.finish(previous, scale=rule.scale([update_of(reply, optimiser) for reply in replies]))


# ---- q-FFL -----------------------------------------------------------------------------------------------------------


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


@settings(max_examples=50, deadline=None)
@given(st.data(), layouts(), st.sampled_from(list(AGGREGATIONS)))
def test_order_of_clients_changes_nothing_beyond_float_order(data: st.DataObject, layout: Layout, name: str) -> None:
    """I5; the order of keys within a reply is in test_aggregation_runs."""
    replies, previous, rule = data.draw(rounds(layout)), state_of(layout, 0), aggregation_named(name)
    one, other = (averaged(rule, layout, previous, order) for order in (replies, data.draw(st.permutations(replies))))
    for key, tensor in one.items():
        assert_near(tensor, other[key])


POINT = Layout({"w": Axis("w", 1)}, {"w": TensorLayout(shape=(1,), dims=(None,))})


def fixed_point(
    rule: Aggregation, curvatures: Sequence[float], targets: Sequence[float], rate: float, steps: Sequence[int]
) -> float:
    """Where rounds of local SGD on F_k(w) = 1 + c_k (w - t_k)² / 2 end."""
    w = torch.zeros(1)
    for _ in range(600):
        replies = []
        for c, target, count in zip(curvatures, targets, steps, strict=True):
            local = w.item()
            for _ in range(count):
                local -= rate * c * (local - target)
            loss = 1 + c * (w.item() - target) ** 2 / 2
            replies.append(Reply(plan=Plan(), difference=torch.tensor([local - w.item()]), loss=loss, steps=count))
        w = averaged(rule, POINT, {"w": w}, replies, Optimiser(rate))["w"]
    return w.item()


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


def test_a_reply_without_what_the_rule_needs_is_refused() -> None:
    for rule, missing in ((QFedAvg(), "loss-before"), (FedNova(), "steps")):
        with pytest.raises(ValueError, match=f"^{missing} = None: allowed is "):
            rule.weigh(Update(node=3, weight=1.0, metrics={"num-examples": 4.0}, optimiser=Optimiser(0.1)), 1.0)
    for steps in (0.0, -3.0, 1e300, float("nan")):
        with pytest.raises(ValueError, match=r"^steps = "):
            FedNova().weigh(Update(node=3, weight=1.0, metrics={"steps": steps}, optimiser=Optimiser(0.1)), 1.0)


# ---- FedNova and plain weights ---------------------------------------------------------------------------------------


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


def test_plain_weights() -> None:
    update = update_of(Reply(plan=Plan(), difference=torch.zeros(1), weight=7.0), Optimiser(0.1))
    assert [rule.weigh(update, 1.0) for rule in (ByMethod(), ByExamples(), Unweighted())] == [(7, 7), (70, 70), (1, 1)]


# ---- at the door -----------------------------------------------------------------------------------------------------


def test_names() -> None:
    assert aggregation_named("q-fedavg", 2.0) == QFedAvg(2.0)
    assert aggregation_named("q-fedsgd", 0.5) == QFedSGD(0.5)
    assert {name: type(aggregation_named(name)) for name in AGGREGATIONS} == AGGREGATIONS
    with pytest.raises(SettingError, match=r"^aggregation = 'q-fed': allowed is one of q-fedsgd, q-fedavg, "):
        aggregation_named("q-fed")
    for q in (-0.1, float("nan"), float("inf")):
        with pytest.raises(SettingError, match=r"^aggregation-q = .*: allowed is a number of at least 0"):
            QFedAvg(q)


SGD_KEYS: dict[str, Any] = {"aggregation": "q-fedsgd", "local_steps": 1, "clip_norm": 0.0, "weight_decay": 0.0}


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"aggregation": "q-fedavg", "aggregation_q": -1.0}, "aggregation-q = -1.0: allowed is at least 0"),
        ({"aggregation": "median"}, "aggregation = 'median': allowed is one of method, "),
        ({**SGD_KEYS, "local_steps": 0}, "local-steps = 0: allowed is 1 with aggregation"),
        ({**SGD_KEYS, "local_steps": 2}, "local-steps = 2: allowed is 1 with aggregation"),
        ({**SGD_KEYS, "clip_norm": 1.0}, "clip-norm = 1.0: allowed is 0 with aggregation"),
        ({**SGD_KEYS, "weight_decay": 5e-4}, "weight-decay = 0.0005: allowed is 0 with aggregation"),
        ({**SGD_KEYS, "tier_steps": "3, 2, 1"}, "tier-steps = '3, 2, 1': allowed is \"\" with aggregation"),
        ({"tier_steps": "3, 2"}, "tier-steps = '3, 2': allowed is \"\", or 3 whole numbers"),
        ({"tier_steps": "3, 2, 0"}, "tier-steps = '3, 2, 0': allowed is whole numbers of at least 1"),
        ({"tier_steps": "3; 2; 1"}, "tier-steps = '3; 2; 1': allowed is whole numbers such as"),
        ({"local_steps": -1}, "local-steps = -1: allowed is a whole number of at least 0"),
    ],
)
def test_what_cannot_be_is_one_line(keys: dict[str, str | int | float], line: str) -> None:
    with pytest.raises(SettingError) as caught:
        configured(**keys)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_work_by_tier() -> None:
    each = configured(aggregation="q-fedavg", local_steps=5, tier_steps="9, 4, 1").settings
    assert [each.work_of(tier).local_steps for tier in each.tiers] == [9, 4, 1]
    assert all(each.work_of(tier).measure.initial_loss for tier in each.tiers)
    plain = configured(local_steps=5).settings
    assert [(w.local_steps, w.measure.initial_loss) for w in map(plain.work_of, plain.tiers)] == [(5, False)] * 3
    whole = configured(**SGD_KEYS).settings
    assert all(whole.work_of(tier).batch_size >= 10**9 for tier in whole.tiers)
