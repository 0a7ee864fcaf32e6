"""What holds of every aggregation rule, and how one is found."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import Layout, Plan
from models.errors import SettingError
from protocol import Optimiser
from strategies.aggregation import (
    AGGREGATIONS,
    ByExamples,
    ByMethod,
    FedNova,
    QFedAvg,
    QFedSGD,
    Unweighted,
    Update,
    aggregation_named,
)
from tests.models.generators import assert_near, layouts, state_of
from tests.strategies.aggregation.replies import Reply, averaged, rounds, update_of
from tests.support import configured


@settings(max_examples=50, deadline=None)
@given(st.data(), layouts(), st.sampled_from(list(AGGREGATIONS)))
def test_order_of_clients_changes_nothing_beyond_float_order(data: st.DataObject, layout: Layout, name: str) -> None:
    """I5; the order of keys within a reply is in test_aggregation_runs."""
    replies, previous, rule = data.draw(rounds(layout)), state_of(layout, 0), aggregation_named(name)
    one, other = (averaged(rule, layout, previous, order) for order in (replies, data.draw(st.permutations(replies))))
    for key, tensor in one.items():
        assert_near(tensor, other[key])


def test_a_reply_without_what_the_rule_needs_is_refused() -> None:
    for rule, missing in ((QFedAvg(), "loss-before"), (FedNova(), "steps")):
        with pytest.raises(ValueError, match=f"^{missing} = None: allowed is "):
            rule.weigh(Update(node=3, weight=1.0, metrics={"num-examples": 4.0}, optimiser=Optimiser(0.1)), 1.0)
    for steps in (0.0, -3.0, 1e300, float("nan")):
        with pytest.raises(ValueError, match=r"^steps = "):
            FedNova().weigh(Update(node=3, weight=1.0, metrics={"steps": steps}, optimiser=Optimiser(0.1)), 1.0)


def test_plain_weights() -> None:
    update = update_of(Reply(plan=Plan(), difference=torch.zeros(1), weight=7.0), Optimiser(0.1))
    assert [rule.weigh(update, 1.0) for rule in (ByMethod(), ByExamples(), Unweighted())] == [(7, 7), (70, 70), (1, 1)]


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
        ({"local_steps": -1}, "local-steps = -1: allowed is 0 to 1000000000"),
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
