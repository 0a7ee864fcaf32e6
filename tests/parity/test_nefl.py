"""NeFL: the authors' averaging (reference notes §8.4), the scaling of a tier, and what a step size is.

The rule, by names: submodel i holds the leading ceil(n·p_i) units and some residual blocks. A coordinate of a shared
tensor lies in the ring between two consecutive widths of the submodels that have the tensor; it becomes the plain mean
over the replies that reach this ring. Norms and step sizes exist once per submodel and become the mean over its
replies. The released code zeroes whole tensors first and so loses blocks that nobody trained; here they stay.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import ceil, sqrt
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from client_app.model_cache import local_model
from models import (
    NetworkSpec,
    Plan,
    SettingError,
    build_part,
    completed,
    flatten,
    initial_state,
    layout,
    submodel,
    torch_generator,
)
from models.algebra.rates import single
from models.networks.scaling import scaled_plan, square_root
from strategies import NeFL, Settings
from strategies.tiers.tier import Tier
from tests.models.generators import bits
from tests.parity.rounds import CLASSES, Round, node, noisy, state_of
from tests.support import Player, configured

TIERS = tuple(Tier(name, Fraction(text)) for name, text in zip("abcde", ("1", "4/5", "3/5", "2/5", "1/5"), strict=True))
BLOCKS = (2, 2, 2, 2)
# Droppable blocks of BLOCKS: the stage and place of each number; the first of later stages have a projection.
PLACES = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (2, 1), 5: (3, 1)}
SPEC = NetworkSpec("resnet-post", (3, 8, 8), CLASSES, widths=(6, 9, 10, 13), blocks=BLOCKS, norm="batch-per-width")
MODES = pytest.mark.parametrize("mode", ["width", "both"])


def strategy_of(mode: str = "both", tiers: tuple[Tier, ...] = TIERS, **options: Any) -> NeFL:
    return NeFL(SPEC, Settings(tiers=tiers), mode=mode, **options)


# ---- the authors' averaging ------------------------------------------------------------------------------------------


def _is_own(name: str) -> bool:
    """Norms, their running statistics and step sizes, by name."""
    return any(part.startswith(("norm", "step")) for part in name.split("."))


def _box(name: str, shape: torch.Size, width: float) -> tuple[slice, ...]:
    """Leading units of a tensor."""
    leading = [slice(ceil(round(size * width, 9))) for size in shape[:2]]
    if "classifier" in name:
        return (slice(None), *leading[1:])
    return (leading[0], slice(None)) if name.startswith("stem") else tuple(leading)


def released_average(
    shared: dict[str, Tensor],
    own: list[dict[str, Tensor]],
    models: list[tuple[float, set[int]]],
    replies: list[tuple[int, dict[str, Tensor]]],
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """A round.

    Args:
        shared: global tensors.
        own: by submodel, its norms and step sizes.
        models: by submodel, the width and the blocks that are left out.
        replies: submodel and trained tensors, each.
    """
    new = {name: tensor.clone() for name, tensor in shared.items()}
    for name, old in shared.items():
        gone = {number for number, (s, b) in PLACES.items() if name.startswith(f"stages.{s}.{b}.")}
        holders = [(models[index][0], trained[name]) for index, trained in replies if not gone & models[index][1]]
        # From the widest to the narrowest: what wider ones left inside is overwritten by the mean over more replies.
        for width in sorted({width for width, _ in holders}, reverse=True):
            inside = _box(name, old.shape, width)
            reaching = [trained[_box(name, old.shape, width)] for wide, trained in holders if wide >= width]
            new[name][inside] = torch.stack(reaching).mean(0)
    new_own = []
    for index, mine in enumerate(own):
        trained = [reply for which, reply in replies if which == index]
        new_own.append({name: torch.stack([t[name] for t in trained]).mean(0) for name in mine} if trained else mine)
    return new, new_own


@MODES
@pytest.mark.parametrize("seed", range(4))
def test_several_rounds_are_the_authors(mode: str, seed: int) -> None:
    """Ten clients of random tiers over three rounds, from one state on."""
    draws, strategy = Random(seed), strategy_of(mode)
    state = state_of(strategy.network)
    plans = [strategy.kept_plan(strategy.context(1), tier) for tier in TIERS]
    assert len(set(plans)) == len(TIERS)
    models = [(float(single(plan.rate)), set(plan.dropped)) for plan in plans]
    begins = [submodel(strategy.network, plan).gather(state) for plan in plans]
    own = [{name: tensor for name, tensor in begin.items() if _is_own(name)} for begin in begins]
    shared = {name: tensor for name, tensor in state.items() if not name.startswith("private.")}
    for number in range(1, 4):
        present = draws.choices(range(1 if number == 2 else 0, len(TIERS)), k=10)
        round_, replies = Round(strategy, number), []
        for i, index in enumerate(present):
            plan, part = round_.part(node(i, examples=3 + i), TIERS[index])
            trained = noisy(part.gather(state), 100 * number + i)
            round_.reply(node(i, examples=3 + i), TIERS[index], plan, trained, state)
            replies.append((index, trained))
        shared, own = released_average(shared, own, models, replies)
        state = round_.finish(state)
        for name, tensor in shared.items():
            torch.testing.assert_close(state[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
        for index, plan in enumerate(plans):
            mine = submodel(strategy.network, plan).gather(state)
            for name, tensor in own[index].items():
                torch.testing.assert_close(mine[name], tensor, rtol=1e-5, atol=1e-6, msg=name)


def test_blocks_and_norms_that_nobody_trained_keep_their_bits() -> None:
    """The released code makes such blocks zero; T5."""
    strategy = strategy_of()
    state, plans = (
        state_of(strategy.network),
        {tier.name: strategy.kept_plan(strategy.context(1), tier) for tier in TIERS},
    )
    held = plans["e"]
    assert held.dropped
    round_ = Round(strategy, 1)
    for i in range(3):
        plan, part = round_.part(node(i), TIERS[-1])
        round_.reply(node(i), TIERS[-1], plan, noisy(part.gather(state), i), state)
    new, moved = round_.finish(state), 0
    for number in held.dropped:
        stage, place = PLACES[number]
        lost = [name for name in state if name.startswith(f"stages.{stage}.{place}.")]
        assert len(lost) == 2  # its convolutions
        assert all(state[name].any() and bits(new[name]) == bits(state[name]) for name in lost)
    sources = {block.source for block in submodel(strategy.network, held).values()}
    for name in state:
        if name.startswith("private.") and name not in sources:
            assert bits(new[name]) == bits(state[name])
        moved += not torch.equal(new[name], state[name])
    assert moved == len(sources)


def test_everybody_in_the_largest_tier_is_the_plain_mean() -> None:
    strategy = strategy_of(tiers=TIERS[:1])
    state, round_, replies = state_of(strategy.network), Round(strategy, 1), []
    for i in range(4):
        plan, part = round_.part(node(i, examples=1 + 9 * i), TIERS[0])
        assert plan == Plan()
        replies.append(noisy(part.gather(state), i))
        round_.reply(node(i, examples=1 + 9 * i), TIERS[0], plan, replies[-1], state)
    new = submodel(strategy.network, Plan()).gather(round_.finish(state))
    for name, tensor in new.items():
        torch.testing.assert_close(tensor, torch.stack([r[name] for r in replies]).mean(0), rtol=1e-5, atol=1e-6)


# ---- the submodel of a tier ------------------------------------------------------------------------------------------

LARGE = {
    "resnet18": completed(NetworkSpec("resnet-post", (3, 32, 32), 10, step_sizes=True)),
    "resnet56": completed(
        NetworkSpec("resnet-post", (3, 32, 32), 10, widths=(16, 32, 64), blocks=(9, 9, 9), step_sizes=True)
    ),
    "resnet": completed(NetworkSpec("resnet", (3, 32, 32), 10, step_sizes=True)),
    "cnn": completed(NetworkSpec("cnn", (3, 32, 32), 10)),
    "vit": completed(NetworkSpec("vit", (3, 32, 32), 10, step_sizes=True)),
}
RATES = [Fraction(text) for text in ("1", "4/5", "3/5", "1/2", "2/5", "1/4", "1/5", "1/8", "1/16")]


def _share(spec: NetworkSpec, plan: Plan) -> float:
    return submodel(spec, plan).numel / layout(spec).parameters  # these networks have no statistics


@MODES
@pytest.mark.parametrize("name", LARGE)
def test_a_tier_has_its_share_of_the_parameters(name: str, mode: str) -> None:
    shares = [_share(LARGE[name], scaled_plan(LARGE[name], rate, mode)) for rate in RATES]
    for rate, share in zip(RATES, shares, strict=True):
        assert share == pytest.approx(float(rate), rel=0.16), rate
    assert shares == sorted(shares, reverse=True)
    assert scaled_plan(LARGE[name], RATES[0], mode) == Plan()


def test_depth_alone_comes_as_near_as_whole_blocks_allow() -> None:
    for rate in (Fraction(4, 5), Fraction(3, 5), Fraction(1, 2), Fraction(2, 5), Fraction(1, 5)):
        plan = scaled_plan(LARGE["resnet56"], rate, "depth")
        assert plan.rate == 1
        share = _share(LARGE["resnet56"], plan)
        assert share == pytest.approx(float(rate), abs=0.045)  # half a block of the last stage


def test_both_halves_are_like_the_authors_tables() -> None:
    """ResNet56, 1/5: the authors keep the first four blocks of each stage and √0.465 of the width."""
    plan = scaled_plan(LARGE["resnet56"], Fraction(1, 5), "both")
    kept = [place for place in range(27) if place not in _places(plan, (9, 9, 9))]
    per_stage = [[place % 9 for place in kept if place // 9 == stage] for stage in range(3)]
    assert all(stage == list(range(len(stage))) for stage in per_stage)  # the first ones
    assert all(3 <= len(stage) <= 5 for stage in per_stage)
    assert float(single(plan.rate)) == pytest.approx(sqrt(0.465), abs=0.03)


def _places(plan: Plan, blocks: tuple[int, ...]) -> set[int]:
    """Numbers of droppable blocks → places among all blocks; the first of every stage but the first is none."""
    numbers = [s * 9 + b for s, count in enumerate(blocks) for b in range(count) if s == 0 or b]
    return {numbers[number - 1] for number in plan.dropped}


def test_networks_without_blocks_are_scaled_in_width() -> None:
    for mode in ("width", "both"):
        assert scaled_plan(LARGE["cnn"], Fraction(1, 4), mode) == Plan(Fraction(1, 2))


def test_one_block_that_may_be_left_out_stays() -> None:
    for name, spec in LARGE.items():
        if blocks := layout(spec).blocks:
            plan = scaled_plan(spec, Fraction(1, 1000), "both")
            assert len(blocks - set(plan.dropped)) == 1, name


def test_square_roots_are_exact_or_rounded_down() -> None:
    assert [square_root(Fraction(1, n * n)) for n in (1, 2, 3, 7)] == [Fraction(1, n) for n in (1, 2, 3, 7)]
    assert square_root(Fraction(4, 9)) == Fraction(2, 3)
    for rate in (Fraction(1, 2), Fraction(1, 5), Fraction(3, 7)):
        assert square_root(rate) ** 2 < rate < (square_root(rate) + Fraction(1, 10**6)) ** 2


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"nefl-mode": "deep"}, "nefl-mode = 'deep': allowed is one of width, depth, both"),
        ({"nefl-mode": "depth", "model": "cnn", "widths": ""}, "nefl-mode = 'depth': allowed is width or both: 100%"),
        ({"nefl-spread": -1}, "nefl-spread = -1: allowed is 0 to 100"),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        configured(method="nefl", **keys)


# ---- who trains which ------------------------------------------------------------------------------------------------


def test_the_whole_network_is_the_largest_submodel_that_is_trained() -> None:
    smaller = TIERS[1:]
    strategy = strategy_of(tiers=smaller)
    whole = Tier("global", strategy.global_rate(strategy.context(1)))
    assert strategy.kept_plan(strategy.context(3), whole) == strategy.kept_plan(strategy.context(3), smaller[0])
    assert strategy_of().kept_plan(strategy_of().context(3), Tier("global", Fraction(1))) == Plan()


def test_a_run_without_the_full_width(play: Player) -> None:
    out = play(method="nefl", tiers="b:1/2, c:1/4", model="resnet-post", widths="4, 8", blocks="2, 1")
    assert out.rows[-1]["accuracy"] == out.rows[-1]["tiers"]["b"]["accuracy"]
    assert out.rows[-1]["tiers"]["c"]["accuracy"] > 0


@pytest.mark.parametrize("spread", [0, 1, 2])
def test_the_spread_is_drawn_from_tiers_near_by(spread: int) -> None:
    strategy = strategy_of(spread=spread)
    plans = [strategy.kept_plan(strategy.context(1), tier) for tier in TIERS]
    for position, tier in enumerate(TIERS):
        seen = {
            plans.index(strategy.plan(strategy.context(number), node(i), tier))
            for i in range(8)
            for number in range(1, 13)
        }
        assert seen == {i for i in range(len(TIERS)) if abs(i - position) <= spread}
        assert strategy.plan(strategy.context(5), node(3), tier) == strategy.plan(strategy.context(5), node(3), tier)


def test_adapting_twice_changes_nothing() -> None:
    strategy = strategy_of()
    assert NeFL.adapted(strategy.network, strategy.settings, strategy.options) == strategy.network
    assert NeFL(strategy.network, strategy.settings).network == strategy.network
    assert strategy.network.step_sizes
    plain: dict[str, Any] = {"step-sizes": False}
    assert not strategy_of(**plain).network.step_sizes


# ---- the network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet", "resnet-post"])
def test_a_step_size_of_zero_is_a_block_left_out(name: str) -> None:
    """x + s·F(x), so s = 0 leaves x; in the post-activation network x is what a ReLU let through."""
    spec = completed(replace(SPEC, name=name, norm="group", step_sizes=True))
    state = initial_state(spec, torch_generator(2, 0, "server", "initial"))
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    full = _loaded(build_part(spec, Plan()), state)(x)
    for number, (stage, place) in PLACES.items():
        step = f"stages.{stage}.{place}.step.size"
        assert state[step].tolist() == [1.0]
        plan = Plan(dropped=(number,))
        without = _loaded(build_part(spec, plan), submodel(spec, plan).gather(state))
        zero = _loaded(build_part(spec, Plan()), state | {step: torch.zeros(1)})
        torch.testing.assert_close(zero(x), without(x))
        assert not torch.allclose(full, without(x), atol=1e-6)


def test_the_branch_is_multiplied_by_the_step_size() -> None:
    spec = completed(replace(SPEC, name="resnet", norm="group", step_sizes=True, widths=(6,), blocks=(1,)))
    state = initial_state(spec, torch_generator(2, 0, "server", "initial"))
    x = torch.randn(3, 6, 8, 8, generator=torch.Generator().manual_seed(1))
    outputs = []
    for size in (0.0, 1.0, 2.5):
        network = _loaded(build_part(spec, Plan()), state | {"stages.0.0.step.size": torch.tensor([size])})
        outputs.append(network.get_submodule("stages.0.0")(x))
    assert torch.equal(outputs[0], x)
    torch.testing.assert_close(outputs[2] - x, 2.5 * (outputs[1] - x))


def _loaded(network: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    network.load_state_dict(state)
    return network.eval()


@pytest.mark.parametrize("tiers", [TIERS[:1], TIERS], ids=["one tier", "five tiers"])
def test_a_device_finds_its_tensors_in_the_whole_state(tiers: tuple[Tier, ...]) -> None:
    """One tier's submodel is as long as the whole state, but the copies stand at the state's end."""
    strategy = strategy_of(tiers=tiers)
    state = state_of(strategy.network)
    for tier in tiers:
        plan = strategy.kept_plan(strategy.context(1), tier)
        held = submodel(strategy.network, plan).gather(state)
        model = local_model(strategy.network, plan, torch.device("cpu"))
        for received, sliced in ((flatten(state), False), (flatten(held), True)):
            model.load(strategy.network, plan, received, sliced=sliced)
            assert all(torch.equal(tensor, held[name]) for name, tensor in model.module.state_dict().items())
