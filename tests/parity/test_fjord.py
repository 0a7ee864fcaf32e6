"""FjORD: the released aggregation (reference notes §3c).

Widths from large to small: the leading block of width p becomes the mean, weighted by examples, over the devices with
p_max ≥ p, overwriting what wider ones left there; that is eq. 2's mean per ring. Statistics of width p: the weighted
mean over devices with p_max ≥ p.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import pytest
import torch
from torch import Tensor

from models import NetworkSpec, completed
from models.algebra.rates import single
from models.norms.layers import NORMS
from strategies import Fjord, Settings
from strategies.tiers.tier import Tier
from tests.parity.rounds import CLASSES, Round, node, noisy, state_of

TIERS = tuple(Tier(f"p{i}", Fraction(i, 5)) for i in (5, 4, 3, 2, 1))
RATES = tuple(sorted(single(tier.rate) for tier in TIERS))


def _spec(name: str) -> NetworkSpec:
    assert "batch-per-width" in NORMS
    return completed(NetworkSpec(name, (3, 8, 8), CLASSES, widths=(6, 9, 10, 13), norm="batch-per-width", rates=RATES))


def _leading(name: str, shape: torch.Size, rate: Fraction) -> tuple[slice, ...]:
    if name == "exits.4.classifier.bias":
        return (slice(None),)
    if name == "exits.4.classifier.weight":
        return slice(None), slice(ceil(shape[1] * rate))
    inputs = slice(None) if name in ("stem.weight", "stages.0.0.weight") else None
    kept = tuple(slice(ceil(size * rate)) for size in shape[:2])
    return kept if inputs is None else (kept[0], inputs)


def released_aggregate(
    state: dict[str, Tensor], replies: list[tuple[Fraction, int, dict[str, Tensor]]]
) -> dict[str, Tensor]:
    new = {name: tensor.clone() for name, tensor in state.items()}
    for rate in reversed(RATES):
        wide = [(examples, trained) for most, examples, trained in replies if most >= rate]
        if not wide:
            continue
        total = sum(examples for examples, _ in wide)
        for name, old in state.items():
            leaf = name.rpartition(".")[2]
            if leaf.startswith(("mean_", "variance_")):
                if leaf.endswith(f"_{RATES.index(rate)}"):
                    new[name] = (
                        sum((examples * trained[name] for examples, trained in wide), torch.zeros_like(old)) / total
                    )
                continue
            block = _leading(name, old.shape, rate)
            new[name][block] = (
                sum((n * trained[name][block] for n, trained in wide), torch.zeros_like(old[block])) / total
            )
    return new


@pytest.mark.parametrize("widest", [[5, 4, 3, 2, 1], [3, 3, 1], [1], [5, 5], [2, 4, 4, 1]])
@pytest.mark.parametrize("name", ["resnet", "cnn"])
def test_the_average_is_the_released_one(name: str, widest: list[int]) -> None:
    spec = _spec(name)
    state, round_ = state_of(spec), Round(Fjord(spec, Settings(tiers=TIERS)), 4)
    replies = []
    for i, most in enumerate(widest):
        tier, who = TIERS[5 - most], node(i, examples=3 + 11 * i)
        plan, part = round_.part(who, tier)
        trained = noisy(part.gather(state), i)
        round_.reply(who, tier, plan, trained, state)
        replies.append((single(tier.rate), who.hello.examples, trained))
    expected, new = released_aggregate(state, replies), round_.finish(state)
    for key, tensor in new.items():
        torch.testing.assert_close(tensor, expected[key], rtol=1e-5, atol=1e-6, msg=key)
    for index in range(max(widest), 5):  # I9: nobody had this width
        for key in (key for key in new if key.endswith((f".mean_{index}", f".variance_{index}"))):
            assert torch.equal(new[key], state[key])


def test_one_width_is_fedavg_by_examples() -> None:
    """I8."""
    spec = completed(NetworkSpec("cnn", (3, 8, 8), CLASSES, widths=(6, 9), norm="batch-per-width"))
    only = Tier("only", Fraction(1))
    state, round_ = state_of(spec), Round(Fjord(spec, Settings(tiers=(only,))), 1)
    replies = [(node(i, examples=5 + i), noisy(state, i)) for i in range(4)]
    for who, trained in replies:
        round_.reply(who, only, round_.part(who, only)[0], trained, state)
    total = sum(who.hello.examples for who, _ in replies)
    for name, tensor in round_.finish(state).items():
        mean = torch.stack([who.hello.examples / total * trained[name] for who, trained in replies]).sum(0)
        torch.testing.assert_close(tensor, mean, rtol=1e-5, atol=1e-6)
