"""Federated dropout and FedEcover: who holds which units, and how the server moves (reference notes §8.6)."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from math import ceil, floor

import torch
from torch import Tensor

from models import Kind, layout
from strategies import FedEcover, FederatedDropout, Settings
from strategies.methods.dropout import width_axes
from strategies.tiers.tier import HALVING, Tier
from tests.parity.rounds import RESNET, Planner, Round, node, noisy, state_of

WIDTHS = {axis.name: axis.size for axis in layout(RESNET).axes.values() if axis.kind is Kind.WIDTH}
QUARTER = HALVING[2]


def test_dropouts_units_are_uniform_and_independent() -> None:
    strategy = FederatedDropout(RESNET, Settings(tiers=HALVING))
    seen: dict[str, Counter[int]] = {name: Counter() for name in WIDTHS}
    rounds = 1500
    for identity in range(rounds):
        units = dict(strategy.plan(strategy.context(2), node(3 * identity + 11), QUARTER).units)
        assert {name: len(kept) for name, kept in units.items()} == {
            name: ceil(size / 4) for name, size in WIDTHS.items()
        }
        for name, kept in units.items():
            seen[name].update(kept)
    for name, counts in seen.items():
        expected = rounds * ceil(WIDTHS[name] / 4) / WIDTHS[name]
        assert len(counts) == WIDTHS[name]
        assert all(abs(count - expected) < 6 * expected**0.5 for count in counts.values()), name


def test_dropout_draws_by_node_and_round_only() -> None:
    one, other = (FederatedDropout(RESNET, Settings(tiers=HALVING)) for _ in range(2))
    for identity in (5, 9000, 77):
        one.plan(one.context(1), node(identity), QUARTER)
    assert one.plan(one.context(7), node(4242), QUARTER) == other.plan(other.context(7), node(4242), QUARTER)
    assert one.plan(one.context(7), node(4242), QUARTER) != one.plan(one.context(8), node(4242), QUARTER)
    assert one.plan(one.context(7), node(4242), QUARTER) != one.plan(one.context(7), node(4243), QUARTER)


def test_fedecover_draws_without_replacement() -> None:
    """Widths are int(r·K), no unit is drawn twice before all have been drawn once, and a draw holds no unit twice."""
    tier = Tier("third", Fraction(1, 3))
    planner = Planner(FedEcover(RESNET, Settings(tiers=HALVING[:3])))
    seen: dict[str, Counter[int]] = {name: Counter() for name in WIDTHS}
    for identity in range(40):
        for name, kept in dict(planner.plan(node(identity), tier, 1).units).items():
            assert len(kept) == len(set(kept)) == floor(WIDTHS[name] / 3)
            before = sum(seen[name].values())
            if before + len(kept) <= WIDTHS[name]:
                assert not set(kept) & set(seen[name]), name
            seen[name].update(kept)
            if sum(seen[name].values()) >= WIDTHS[name]:
                assert len(seen[name]) == WIDTHS[name]


def test_fedecovers_full_tiers_empty_no_pool() -> None:
    planner = Planner(FedEcover(RESNET, Settings(tiers=HALVING[:3])))
    planner.plan(node(1), HALVING[0], 1)
    assert planner.values == {"pools": {}}


def test_fedecover_moves_by_the_mean_difference_times_its_rate() -> None:
    """η·(mean difference over holders); η is multiplied by 0.9 every 10 rounds until round 200."""
    state, tier = state_of(RESNET), QUARTER
    for number, rate in ((1, 1.0), (10, 1.0), (11, 0.9), (25, 0.81), (200, 0.9**19), (201, 0.9**20), (999, 0.9**20)):
        strategy = FedEcover(RESNET, Settings(tiers=HALVING[:3]))
        round_ = Round(strategy, number)
        total = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
        count: dict[str, Tensor] = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
        for i in range(5):
            plan, part = round_.part(node(i), tier)
            trained = noisy(part.gather(state), i)
            round_.reply(node(i), tier, plan, trained, state)
            for name, block in part.items():
                places = block.gather(torch.arange(state[name].numel()).view(state[name].shape)).flatten()
                total[name].view(-1)[places] += (trained[name] - block.gather(state[name])).flatten()
                count[name].view(-1)[places] += 1
        new = round_.finish(state)
        for name, tensor in new.items():
            torch.testing.assert_close(
                tensor, state[name] + rate * total[name] / count[name].clamp_min(1), rtol=1e-5, atol=1e-6
            )


def test_fedecover_offers_every_unit_equally_often() -> None:
    """Whatever the draws' sizes, after any number of them no unit is ahead of another by more than one cycle."""
    strategy = FedEcover(RESNET, Settings(tiers=HALVING[:3]))
    planner, context = Planner(strategy), strategy.context(1)
    held = {axis.name: Counter[int]() for axis in width_axes(context)}
    for number in range(60):
        tier = strategy.settings.tiers[1 + number % 2]
        for axis, units in planner.plan(node(number), tier, 1 + number // 10).units:
            held[axis].update(units)
            counts = [held[axis][unit] for unit in range(context.layout.axes[axis].size)]
            assert max(counts) - min(counts) <= 1
