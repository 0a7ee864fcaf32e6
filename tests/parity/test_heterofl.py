"""HeteroFL and FedRolex: the released rule, index by index.

The rule (reference notes §2a, §2c, §8.1): walking through the network, the output units of a layer are the first
ceil(K·rate) of a roll of its K units, its inputs are the outputs of the layer before; image channels and classes are
whole. A coordinate becomes the plain mean of the *parameters* of those who hold it, rows of the classifier only of
those who have the label, and keeps its value if there are none.
"""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest
import torch
from torch import Tensor

from models import NetworkSpec, submodel
from models.algebra.rates import single
from strategies import FedRolex, HeteroFL, Settings
from strategies.tiers.tier import HALVING, Tier
from tests.parity.rounds import CLASSES, CNN, RESNET, Round, node, noisy, state_of


def _units(size: int, tier: Tier, shift: int) -> Tensor:
    return torch.from_numpy(np.roll(np.arange(size), shift)[: ceil(size * single(tier.rate))].copy())


def released_indices(name: str, shape: torch.Size, tier: Tier, shift: int) -> list[Tensor]:
    """Kept coordinates per dimension, told by the tensor's name, as the released code does."""
    everything = [torch.arange(size) for size in shape]
    if name == "exits.4.classifier.bias":
        return everything
    if name == "exits.4.classifier.weight":
        return [everything[0], _units(shape[1], tier, shift)]
    if len(shape) == 1:
        return [_units(shape[0], tier, shift)]
    first = name in ("stem.weight", "stages.0.0.weight")
    return [_units(shape[0], tier, shift), everything[1] if first else _units(shape[1], tier, shift), *everything[2:]]


def released_combine(
    state: dict[str, Tensor], locals_: list[tuple[Tier, tuple[int, ...], dict[str, Tensor]]], shift: int
) -> dict[str, Tensor]:
    new = {}
    for name, old in state.items():
        total, count = torch.zeros_like(old), torch.zeros_like(old)
        for tier, labels, trained in locals_:
            index = released_indices(name, old.shape, tier, shift)
            piece = trained[name]
            if ".classifier." in name:
                rows = torch.tensor(labels)
                index[0], piece = rows, piece[rows]
            where = torch.meshgrid(*index, indexing="ij")
            total[where] += piece
            count[where] += 1
        new[name] = torch.where(count > 0, total / count.clamp_min(1), old)
    return new


# Tiers of the replies and the labels behind them. Without the widest, much of the network stays as it was.
FLEETS = [
    [(0, (0, 1)), (1, (1, 2, 3)), (2, (4, 5)), (3, (0,)), (4, (1, 5)), (2, (4,))],
    [(1, (0, 1)), (1, (1, 2, 3)), (2, (4, 5)), (3, (0, 2))],
    [(0, tuple(range(CLASSES))), (0, tuple(range(CLASSES)))],
]


@pytest.mark.parametrize("fleet", FLEETS, ids=["all tiers", "without the widest", "full width"])
@pytest.mark.parametrize("spec", [RESNET, CNN], ids=["resnet", "cnn"])
@pytest.mark.parametrize(
    ("method", "number"), [("heterofl", 3), ("fedrolex", 1), ("fedrolex", 2), ("fedrolex", 12), ("fedrolex", 40)]
)
def test_the_average_is_the_released_one(
    method: str, number: int, spec: NetworkSpec, fleet: list[tuple[int, tuple[int, ...]]]
) -> None:
    settings = Settings(tiers=HALVING)
    strategy = HeteroFL(spec, settings) if method == "heterofl" else FedRolex(spec, settings, step=1)
    # np.roll by s starts at unit -s; the paper's window starts at unit j, so the roll is by -j
    shift = 0 if method == "heterofl" else 1 - number
    state, round_ = state_of(spec), Round(strategy, number)
    locals_ = []
    for i, (level, labels) in enumerate(fleet):
        tier, who = HALVING[level], node(i, examples=10 + 7 * i, labels=labels)
        plan, part = round_.part(who, tier)
        index = {name: released_indices(name, tensor.shape, tier, shift) for name, tensor in state.items()}
        for name, piece in part.gather(state).items():
            where = torch.meshgrid(*index[name], indexing="ij")
            if tier.rate < 1:  # the order of a full window is nobody's business
                assert torch.equal(piece, state[name][where]), name
        trained = noisy(part.gather(state), i)
        round_.reply(who, tier, plan, trained, state)
        if tier.rate == 1:  # put it in the order of the roll
            trained = {name: trained[name][torch.meshgrid(*index[name], indexing="ij")] for name in trained}
        locals_.append((tier, labels, trained))
    expected, new = released_combine(state, locals_, shift), round_.finish(state)
    for name, tensor in new.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("size", [8, 9])
def test_fedrolexs_default_walks_backwards_like_the_released_code(size: int) -> None:
    """Notes §8.1 for K = 8, r = 1/4: rounds 0 to 3 hold [0, 1], [7, 0], [6, 7], [5, 6]."""
    spec = NetworkSpec("mlp", (1, 2, 2), CLASSES, widths=(size,))
    tier, strategy = HALVING[2], FedRolex(spec, Settings(tiers=HALVING))
    for released_round in range(3 * size):
        plan = strategy.plan(strategy.context(released_round + 1), node(0), tier)
        held = submodel(strategy.network, plan)["stages.0.0.bias"].gather(torch.arange(size)).tolist()
        assert held == np.roll(np.arange(size), released_round % size)[: ceil(size * single(tier.rate))].tolist()


@pytest.mark.parametrize("spec", [RESNET, CNN], ids=["resnet", "cnn"])
def test_rows_of_labels_that_nobody_has_keep_their_bits_and_the_others_change(spec: NetworkSpec) -> None:
    """I4: with labels {0,1}, {1,2,3}, {4,5}, {0} of 7, exactly row 6 stays, bias included."""
    state, round_ = state_of(spec), Round(HeteroFL(spec, Settings(tiers=HALVING)), 1)
    for i, labels in enumerate(((0, 1), (1, 2, 3), (4, 5), (0,))):
        plan, part = round_.part(node(i, labels=labels), HALVING[i % 3])
        round_.reply(node(i, labels=labels), HALVING[i % 3], plan, noisy(part.gather(state), i), state)
    new = round_.finish(state)
    for name in ("exits.4.classifier.weight", "exits.4.classifier.bias"):
        changed = (new[name] != state[name]).view(CLASSES, -1).any(1)
        assert changed.tolist() == [True] * 6 + [False]
        assert torch.equal(new[name][6].view(torch.int32), state[name][6].view(torch.int32))


def test_without_label_rows_every_row_is_averaged() -> None:
    state, round_ = state_of(CNN), Round(HeteroFL(CNN, Settings(tiers=HALVING), **{"label-rows": False}), 1)
    plan, part = round_.part(node(0, labels=(1,)), HALVING[0])
    trained = noisy(part.gather(state), 0)
    round_.reply(node(0, labels=(1,)), HALVING[0], plan, trained, state)
    torch.testing.assert_close(round_.finish(state), trained)
