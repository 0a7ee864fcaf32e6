"""InclusiveFL: layer-prefix averages by examples, and momentum distillation that acts, against a transcription."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from models import NetworkSpec, initial_state, torch_generator
from strategies import InclusiveFL, Settings, Tier
from tests.parity.rounds import Round, node, noisy

TIERS = (Tier("large", Fraction(1), 4), Tier("middle", Fraction(1), 3), Tier("small", Fraction(1), 1))
SPEC = NetworkSpec("mlp", (1, 2, 4), 4, widths=(6, 6, 6, 6), norm="none")  # four layers of one shape
EXAMPLES = {"large": 30, "middle": 10, "small": 20}


def _strategy(**options: bool | float) -> InclusiveFL:
    return InclusiveFL(SPEC, Settings(tiers=TIERS), **options)


def _state(strategy: InclusiveFL) -> dict[str, Tensor]:
    state = initial_state(strategy.network, torch_generator(5, 0, "server", "initial"))
    for name, tensor in state.items():
        strategy.state[name].copy_(tensor)
    return state


def _round(strategy: InclusiveFL, present: str) -> tuple[dict[str, Tensor], list[tuple[str, dict[str, Tensor]]]]:
    """One round through the strategy's own plans and weights; (state after, what each sent by name in the state)."""
    state, round_ = _state(strategy), Round(strategy, 1)
    sent = []
    for i, name in enumerate(present.split()):
        tier = next(tier for tier in TIERS if tier.name == name)
        who = node(i, examples=EXAMPLES[name])
        plan, _ = round_.part(who, tier)
        part = strategy.part(strategy.context(1), plan, strategy.state)
        trained = noisy(part.gather(state), i)
        difference = torch.cat([(trained[key] - part[key].gather(state[part[key].source])).flatten() for key in part])
        strategy.runner.main.average.add(part, difference, EXAMPLES[name], EXAMPLES[name])
        sent.append((name, {part[key].source: value for key, value in trained.items()}))
    strategy.runner.main.average.finish(strategy.state, out=strategy.state)
    _refine(strategy, state)
    return {name: tensor.clone() for name, tensor in strategy.state.items()}, sent


def _refine(strategy: InclusiveFL, before: dict[str, Tensor]) -> None:
    main = strategy.runner.main
    strategy.refine(strategy.context(1), before, main.tensors, main.average, {})


def averaged(state: dict[str, Tensor], sent: list[tuple[str, dict[str, Tensor]]]) -> dict[str, Tensor]:
    new = {}
    for name, old in state.items():
        holders = [(EXAMPLES[size], tensors[name]) for size, tensors in sent if name in tensors]
        total = sum(weight for weight, _ in holders)
        mean = sum((weight / total * tensor for weight, tensor in holders), torch.zeros_like(old)) if holders else old
        new[name] = mean
    return new


@pytest.mark.parametrize("present", ["large middle small small", "middle small", "large large", "small"])
@pytest.mark.parametrize("own", [True, False])
def test_without_momentum_it_is_the_average_of_layer_prefixes(present: str, own: bool) -> None:
    strategy = _strategy(**{"momentum": 0.0, "private-last-layer": own})
    before = _state(strategy)
    new, sent = _round(strategy, present)
    for name, expected in averaged(before, sent).items():
        torch.testing.assert_close(new[name], expected, rtol=1e-4, atol=1e-5)


def test_private_layers_are_held_by_one_size_only() -> None:
    strategy = _strategy()
    context = strategy.context(1)
    parts = {tier.name: strategy.part(context, strategy.kept_plan(context, tier), strategy.state) for tier in TIERS}
    held = {name: {block.source for block in part.values()} for name, part in parts.items()}
    own = {name for name in strategy.state if name.startswith("private.")}
    assert len(own) == 4  # weight and bias of the last layers of the two smaller sizes
    for name in own:
        assert sum(name in names for names in held.values()) == 1
    assert held["small"] & held["middle"] <= held["large"] | held["middle"]
    exits = {size: {name for name in names if name.startswith("exits.")} for size, names in held.items()}
    assert not exits["small"] & exits["large"]


def test_momentum_mixes_the_deeper_layers_updates_into_the_smaller_sizes_last_layer() -> None:
    beta = 0.2
    strategy, plain = _strategy(momentum=beta), _strategy(momentum=0.0)
    before = _state(strategy)
    new, _ = _round(strategy, "large middle small")
    without, _ = _round(plain, "large middle small")
    # One layer's tensors by stage, in the shared network (stage 1 takes the inputs: another shape).
    stage = {i: [f"stages.{i - 1}.0.weight", f"stages.{i - 1}.0.bias"] for i in (1, 2, 3, 4)}
    sizes = {3: [name for name in new if name.startswith("private.") and "stages.2." in name]}
    assert len(sizes[3]) == 2
    for position, name in enumerate(sizes[3]):  # the middle size: above its third layer there is the fourth
        update = without[stage[4][position]] - before[stage[4][position]]
        expected = before[name] + (1 - beta) * (without[name] - before[name]) + beta * update
        torch.testing.assert_close(new[name], expected, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(new[name], without[name])
    for name in new:  # nothing else moves, the small size's first layer included: layers of another shape teach nothing
        if name not in sizes[3]:
            assert torch.equal(new[name], without[name]), name


def test_momentum_is_the_mean_over_the_deeper_layers() -> None:
    tiers = (Tier("large", Fraction(1), 4), Tier("small", Fraction(1), 2))
    strategy = InclusiveFL(SPEC, Settings(tiers=tiers), **{"momentum": 1.0, "private-last-layer": True})
    state = _state(strategy)
    moved = {"stages.2.0.weight": 1.0, "stages.3.0.weight": 3.0}
    for tier in tiers:
        part = strategy.part(strategy.context(1), strategy.kept_plan(strategy.context(1), tier), strategy.state)
        values = [torch.full((block.numel,), moved.get(block.source, 0.5)) for block in part.values()]
        strategy.runner.main.average.add(part, torch.cat(values))
    strategy.runner.main.average.finish(strategy.state, out=strategy.state)
    _refine(strategy, state)
    (own,) = [name for name in state if name.startswith("private.") and name.endswith("stages.1.0.weight")]
    torch.testing.assert_close(strategy.state[own], state[own] + 2.0)


def test_a_size_that_nobody_trained_keeps_its_last_layer_bit_for_bit() -> None:
    strategy = _strategy(momentum=0.5)
    before = _state(strategy)
    new, _ = _round(strategy, "large large")
    for name in before:
        if name.startswith("private."):
            assert torch.equal(new[name], before[name])


def test_the_largest_size_need_not_be_the_whole_network() -> None:
    """Three of four layers are the deepest that anybody holds: its own copy of the third teaches the second."""
    tiers = (Tier("large", Fraction(1), 3), Tier("small", Fraction(1), 2))
    strategy = InclusiveFL(SPEC, Settings(tiers=tiers), momentum=1.0)
    state = _state(strategy)
    for tier in tiers:
        part = strategy.part(strategy.context(1), strategy.kept_plan(strategy.context(1), tier), strategy.state)
        moved = {"private.1.stages.2.0.weight": 3.0}
        values = [torch.full((block.numel,), moved.get(block.source, 0.5)) for block in part.values()]
        strategy.runner.main.average.add(part, torch.cat(values))
    strategy.runner.main.average.finish(strategy.state, out=strategy.state)
    _refine(strategy, state)
    name = "private.0.stages.1.0.weight"
    torch.testing.assert_close(strategy.state[name], state[name] + 3.0)
    untrained = [name for name in state if name.startswith(("stages.3.", "exits.4."))]
    assert untrained
    assert all(torch.equal(strategy.state[name], state[name]) for name in untrained)
