"""FedAvg (Algorithm 1): w ← Σ nₖ/n · wₖ; and the two baselines built on it."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from models import Plan, submodel
from strategies import Exclusive, FedAvg, HeteroFL, Settings, Smallest
from strategies.aggregation import aggregation_named
from strategies.tiers.tier import HALVING
from tests.parity.rounds import RESNET, Round, node, noisy, state_of

EXAMPLES = (4, 100, 37, 1)


def _played(strategy: FedAvg | HeteroFL, state: dict[str, Tensor]) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    round_, replies = Round(strategy, 1), []
    for i, examples in enumerate(EXAMPLES):
        who = node(i, examples=examples)
        plan, part = round_.part(who, HALVING[0])
        replies.append(noisy(part.gather(state), i))
        round_.reply(who, HALVING[0], plan, replies[-1], state)
    return replies, round_.finish(state)


def _mean(replies: list[dict[str, Tensor]], weights: tuple[int, ...]) -> dict[str, Tensor]:
    return {
        name: sum((n * reply[name] for n, reply in zip(weights, replies, strict=True)), torch.zeros(())) / sum(weights)
        for name in replies[0]
    }


@pytest.mark.parametrize(
    ("aggregation", "weights"), [("method", EXAMPLES), ("examples", EXAMPLES), ("uniform", (1, 1, 1, 1))]
)
def test_by_examples(aggregation: str, weights: tuple[int, ...]) -> None:
    replies, new = _played(
        FedAvg(RESNET, Settings(tiers=HALVING, aggregation=aggregation_named(aggregation))), state_of(RESNET)
    )
    torch.testing.assert_close(new, _mean(replies, weights), rtol=1e-5, atol=1e-6)


def test_heterofl_at_full_width_is_the_unweighted_mean_and_not_the_weighted_one() -> None:
    """I1 and I2."""
    replies, new = _played(HeteroFL(RESNET, Settings(tiers=HALVING)), state_of(RESNET))
    torch.testing.assert_close(new, _mean(replies, (1, 1, 1, 1)), rtol=1e-5, atol=1e-6)
    weighted = _mean(replies, EXAMPLES)
    assert all(not torch.allclose(new[name], weighted[name], atol=1e-3) for name in new)


def test_smallest_trains_one_leading_part_and_nothing_else() -> None:
    state = state_of(RESNET)
    replies, new = _played(Smallest(RESNET, Settings(tiers=HALVING)), state)
    part = submodel(RESNET, Plan(Fraction(1, 16)))
    torch.testing.assert_close(part.gather(new), _mean(replies, EXAMPLES), rtol=1e-5, atol=1e-6)
    changed = sum(int((new[name] != state[name]).sum()) for name in state)
    assert changed == part.numel


def test_exclusive_is_for_full_tiers() -> None:
    strategy = Exclusive(RESNET, Settings(tiers=HALVING))
    assert [strategy.eligible(strategy.context(1), tier) for tier in HALVING] == [True, False, False, False, False]
    assert strategy.plan(strategy.context(1), node(0), HALVING[0]) == Plan()
