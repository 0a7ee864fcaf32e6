"""FLoRA against a plain transcription of its stacks, and what becomes of the weights and of fresh pairs."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from models import NetworkSpec
from models.adapters.adapter import Adapter
from models.algebra.pairs import Pair
from models.algebra.plans import Plan
from models.errors import SettingError
from models.networks.build import layout, part_of, submodel
from protocol.codecs import CodecSettings
from strategies import METHODS, Settings
from tests.parity.rank_rounds import RANK, SETTINGS, SPEC, Replied
from tests.parity.rounds import node

ALPHA = 8.0
CONVOLUTIONS = NetworkSpec(
    "cnn-flat",
    (1, 8, 8),
    5,
    widths=(5, 6, 7),
    norm="none",
    adapter=Adapter(rank=RANK, alpha=ALPHA, targets=("linear", "convolution")),
)


def folded(ranks: Sequence[int], examples: Sequence[int], number: int = 1, spec: NetworkSpec = SPEC) -> Replied:
    """A round of differences, averaged and refined as a run does it."""
    strategy = METHODS["flora"](spec, SETTINGS)
    state, draws = strategy.runner.main, torch.Generator().manual_seed(3)
    state.flat.copy_(torch.randn(state.flat.shape, generator=draws))
    before, left = {name: tensor.clone() for name, tensor in state.tensors.items()}, []
    for rank, count in zip(ranks, examples, strict=True):
        part = submodel(strategy.network, Plan(Fraction(rank, RANK), fixed=True))
        difference = 0.3 * torch.randn(part.numel, generator=draws)
        state.average.add(part, difference, float(count), float(count))
        left.append({name: part.gather(before)[name] + piece for name, piece in part.split(difference).items()})
    state.average.finish(state.tensors, out=state.tensors)
    strategy.refine(strategy.context(number), before, state.tensors, state.average, {})
    return Replied(strategy=strategy, before=before, after=state.tensors, left=left)


def stacked(done: Replied, pair: Pair, examples: Sequence[int]) -> Tensor:
    """(α/R)·[B_1 … B_K]·[p_1·A_1; …; p_K·A_K], as the paper has it."""
    total = sum(examples)
    b = torch.cat([one[pair.b] for one in done.left], 1)
    a = torch.cat([count / total * one[pair.a] for one, count in zip(done.left, examples, strict=True)])
    return ALPHA / RANK * b @ a


@pytest.mark.parametrize("spec", [SPEC, CONVOLUTIONS], ids=lambda spec: spec.name)
def test_the_weighted_sum_of_products_is_in_the_weights(spec: NetworkSpec) -> None:
    examples = [10, 30, 5, 40]
    done = folded([4, 2, 2, 1], examples, spec=spec)
    for pair in done.pairs:
        terms = [
            count / 85 * ALPHA / RANK * one[pair.b].double() @ one[pair.a].double()
            for one, count in zip(done.left, examples, strict=True)
        ]
        before, after = (state[pair.weight].flatten(1) for state in (done.before, done.after))
        wanted, moved = torch.stack(terms).sum(0), after.double() - before.double()
        assert (moved - wanted).norm() <= 1e-5 * wanted.norm()
        assert torch.allclose(after, before + stacked(done, pair, examples), atol=1e-4)
        assert torch.linalg.matrix_rank(moved, rtol=1e-5) > RANK  # no rank was cut off


def test_pairs_begin_anew() -> None:
    """B is zero; A is another one every round, and the same one whoever replied."""
    one, other, next_ = folded([4, 1], [1, 2]), folded([2], [7]), folded([4, 1], [1, 2], number=2)
    for pair in one.pairs:
        assert not one.after[pair.b].any()
        assert not torch.equal(one.after[pair.a], one.before[pair.a])
        assert torch.equal(one.after[pair.a], other.after[pair.a])
        assert not torch.equal(one.after[pair.a], next_.after[pair.a])
        assert float(one.after[pair.a].abs().max()) <= one.after[pair.a].shape[1] ** -0.5


def test_of_one_device_everybody_has_its_network() -> None:
    """Equal ranks and one client are plain training; of a device of lower rank all get its network too."""
    inputs = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    for rank in (4, 2):
        done = folded([rank], [3])
        network = done.strategy.network
        trained = part_of(network, Plan(Fraction(rank, RANK)), {**done.before, **_full(done)})
        wanted = trained(inputs)
        for share in (Fraction(1), Fraction(1, 4)):
            assert torch.allclose(part_of(network, Plan(share), done.after)(inputs), wanted, rtol=1e-4, atol=1e-4)


def _full(done: Replied) -> dict[str, Tensor]:
    """What the one device left, where a state has it; the ranks that it did not hold are as they were."""
    (left,) = done.left
    state = {name: tensor.clone() for name, tensor in done.before.items()}
    for name, tensor in left.items():
        state[name][tuple(map(slice, tensor.shape))] = tensor
    return state


def test_weights_are_sent_and_not_trained() -> None:
    strategy = METHODS["flora"](SPEC, SETTINGS)
    declared, plan = layout(strategy.network), strategy.plan(strategy.context(1), node(1), SETTINGS.tiers[1])
    weights = {pair.weight for pair in declared.pairs}
    assert len(weights) == len(declared.pairs) > 0
    assert plan == Plan(Fraction(1, 2), fixed=True) == Plan.from_json(plan.to_json())
    trained, held = submodel(strategy.network, plan), submodel(strategy.network, plan.holding)
    assert set(held) - set(trained) == weights
    assert all(held[name].local_shape == declared.tensors[name].shape for name in weights)  # whole, whatever the rank
    assert not weights & set(declared.frozen)
    assert NetworkSpec.from_json(strategy.network.to_json()) == strategy.network


def test_a_pair_that_nobody_held_stays() -> None:
    strategy = METHODS["flora"](SPEC, SETTINGS)
    state = strategy.runner.main
    before = {name: tensor.fill_(0.5).clone() for name, tensor in state.tensors.items()}
    strategy.refine(strategy.context(1), before, state.tensors, state.average, {})
    assert all(torch.equal(state.tensors[name], tensor) for name, tensor in before.items())


def test_what_would_not_reach_the_devices_is_refused() -> None:
    with pytest.raises(SettingError, match="codec-down"):
        METHODS["flora"](SPEC, Settings(tiers=SETTINGS.tiers, nodes=4, codec_down=CodecSettings("qsgd")))
