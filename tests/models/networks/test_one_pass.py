"""One pass for several parts: the same bits as a pass each, and stages that are the same are run once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models import NetworkSpec, Plan, build_part, completed, layout, submodel
from models.adapters.adapter import Adapter
from models.algebra.precisions import INT8
from models.algebra.submodel import Submodel
from models.networks.one_pass import Held, in_passes
from models.networks.staged import Exit, Staged
from models.predictions import predictions
from models.statistics import collect, needs_statistics, set_statistics
from tests.models.inputs import drawn
from tests.models.networks.transformers import SPECS

NETS = {
    "mlp": NetworkSpec("mlp", (2, 4, 3), 5, widths=(6, 6, 6)),
    "cnn": NetworkSpec("cnn", (2, 9, 8), 5, widths=(4, 6, 8)),
    "cnn1d": NetworkSpec("cnn1d", (2, 32), 5, widths=(4, 6, 8)),
    "gru": NetworkSpec("gru", (9,), 5, widths=(8, 6, 6, 6), vocabulary=11),
    "resnet": NetworkSpec("resnet", (2, 8, 8), 5, widths=(4, 6, 8), blocks=(1, 2, 1)),
    "resnet-post": NetworkSpec("resnet-post", (2, 8, 8), 5, widths=(4, 6, 8), blocks=(1, 2, 1)),
    "foreign": NetworkSpec("tests.models.foreign.nets:Layers", (1, 8, 8), 10),
} | SPECS
IMAGES = ("cnn", "resnet", "resnet-post")
SPATIAL = [(name, exits) for name in IMAGES for exits in ("bottleneck", "convolutional")]
SHARED = [(name, "shared") for name in ("text", "tied", "vit", "foreign")]
CASES = [*((name, "plain") for name in NETS), *SPATIAL, *SHARED]
DEPTHS = (1, 2, 3)


def spec_of(name: str, exits: str, **fields: Any) -> NetworkSpec:
    return completed(replace(NETS[name], exits=exits, **fields))


def state_of(spec: NetworkSpec) -> dict[str, Tensor]:
    """Normal weights, and variances that are some."""
    draws = torch.Generator().manual_seed(5)
    tensors = layout(spec).tensors
    state = {name: torch.randn(one.shape, generator=draws) / 3 for name, one in tensors.items()}
    return {name: one.abs() + 0.5 if tensors[name].buffer else one for name, one in state.items()}


def held(spec: NetworkSpec, plans: Sequence[Plan]) -> list[Held]:
    state, found = state_of(spec), []
    for plan in plans:
        network, part = build_part(spec, plan).eval(), submodel(spec, plan)
        network.load_state_dict(part.gather(state))
        found.append(Held(network=network, plan=plan, part=part))
    return found


@contextmanager
def run_stages() -> Iterator[list[nn.Module]]:
    """Stages of staged networks that are run meanwhile."""
    run = list[nn.Module]()

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        del inputs, output
        run.extend([module] if "is stage" in vars(module) else [])

    with torch.nn.modules.module.register_module_forward_hook(note):
        yield run


def answered(spec: NetworkSpec, several: Sequence[Held], count: int) -> list[list[int]]:
    """See that answers are those of a pass each, and that so many stages were run: who shared a pass."""
    x = drawn(spec, 4)
    expected = [predictions(one.network, x) for one in several]
    for one in several:
        for stage in one.network.stages if isinstance(one.network, Staged) else ():
            vars(stage)["is stage"] = True
    passes = in_passes(spec, several)
    assert sorted(i for one_pass in passes for i in one_pass.members) == list(range(len(several)))
    with run_stages() as run:
        for one_pass in passes:
            for i, found in zip(one_pass.members, one_pass(x), strict=True):
                assert len(found) == len(expected[i])
                assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected[i], strict=True))
    assert len(run) == count
    return [list(one_pass.members) for one_pass in passes]


@pytest.mark.parametrize(("name", "exits"), CASES)
@pytest.mark.parametrize("own_exit", [False, True])
@torch.no_grad()
def test_depths_are_one_pass(name: str, exits: str, own_exit: bool) -> None:
    norms: tuple[str, ...] = ("none", "group", "batch-per-width")
    if name in SPECS or name == "foreign":
        norms = ("",)
    for norm in norms:
        fields = {"rates": (Fraction(1),)} if norm == "batch-per-width" else {}
        spec = spec_of(name, exits, norm=norm, **fields)
        several = held(spec, [Plan(depth=depth, own_exit=own_exit) for depth in (2, 3, 1)])
        stages = 0 if name == "foreign" else 3  # a graph has no stages that can be run one by one
        assert answered(spec, several, stages) == [[0, 1, 2]]


@pytest.mark.parametrize("name", ["mlp", "cnn", "text"])
@torch.no_grad()
def test_last_stages_of_a_size_s_own(name: str) -> None:
    """What stands before a private stage is run for the largest alone; what stands before all of them, once."""
    alone = replace(NETS[name], exits="plain", norm="none" if name != "text" else "")
    plans = [Plan(depth=depth, own_exit=True) for depth in DEPTHS]
    spec = completed(replace(alone, private=("stage",), variants=tuple(plan.to_json() for plan in plans)))
    assert answered(spec, held(spec, plans), 1 + 1 + 3) == [[0], [1, 2]]


@torch.no_grad()
def test_exits_that_the_largest_has_not() -> None:
    """Depth 3 with its own exit alone, depth 2 with both of its own: features of the first stage are wanted again."""
    spec = spec_of("mlp", "plain", norm="none")
    answered(spec, held(spec, [Plan(depth=3, own_exit=True), Plan(depth=2)]), 3 + 1)
    answered(spec, held(spec, [Plan(depth=3), Plan(depth=2, own_exit=True), Plan(depth=2)]), 3)


@torch.no_grad()
def test_what_is_not_the_same_has_a_pass_of_its_own() -> None:
    plans = [Plan(depth=3), Plan(depth=2)]
    static = spec_of("cnn", "plain", norm="static-batch")
    several = held(static, plans)
    for one in several:
        assert needs_statistics(one.network)
        set_statistics(one.network, collect(one.network, [drawn(static, 16)]))
    assert answered(static, several, 5) == [[0], [1]]
    spec = spec_of("cnn", "plain", norm="none")
    widths = [Plan(depth=3), Plan(Fraction(1, 2), depth=2), Plan(Fraction(1, 2), depth=1)]
    assert answered(spec, held(spec, widths), 3 + 2) == [[0], [1, 2]]
    shifted = [Plan(Fraction(1, 2), depth=3), Plan(Fraction(1, 2), depth=2, shift=1)]
    assert answered(spec, held(spec, shifted), 5) == [[0], [1]]
    whole = spec_of("resnet", "plain", norm="none")
    dropped = [Plan(depth=3), Plan(depth=2, dropped=(1,))]
    assert answered(whole, held(whole, dropped), 5) == [[0], [1]]


def test_a_base_in_fewer_bits_computes_something_else() -> None:
    """Nothing that parts hold of the state says so, their plans do."""
    spec = spec_of("text", "plain", adapter=Adapter(rank=2))
    with torch.no_grad():
        assert answered(spec, held(spec, [Plan(depth=3), Plan(depth=2)]), 3) == [[0, 1]]
        assert answered(spec, held(spec, [Plan(depth=3), Plan(depth=2, precision=INT8)]), 5) == [[0], [1]]


@pytest.mark.parametrize("exits", ["last", "plain", "shared"])
def test_nothing_but_heads_is_held(exits: str) -> None:
    """No tensor that is held stands in a stage."""
    spec = spec_of("text", exits, adapter=Adapter(rank=0))
    assert layout(spec).depth == 0
    with torch.no_grad():
        assert answered(spec, held(spec, [Plan()]), 3) == [[0]]
        if exits == "plain":
            assert answered(spec, held(spec, [Plan(), Plan(depth=2)]), 3) == [[0, 1]]


@torch.no_grad()
def test_masks_and_tensors_of_somebody_else_are_not_shared() -> None:
    spec = spec_of("mlp", "plain", norm="none")
    large, small = held(spec, [Plan(depth=3), Plan(depth=2)])
    name, block = next(iter(small.part.items()))
    for changed in (replace(block, mask=torch.ones(block.local_shape)), replace(block, source="another")):
        other = replace(small, part=Submodel({**small.part, name: changed}, small.part.sizes))
        assert [one_pass.members for one_pass in in_passes(spec, [large, other])] == [[0], [1]]


class Otherwise(Staged):
    """Answers in its own way."""

    def forward(self, x: Tensor) -> Tensor:
        return -super().forward(x)


@torch.no_grad()
def test_networks_that_answer_in_their_own_way_are_asked() -> None:
    spec = spec_of("mlp", "plain", norm="none")
    several = held(spec, [Plan(depth=3), Plan(depth=2)])
    for one in several:
        one.network.__class__ = Otherwise
    assert [one_pass.members for one_pass in in_passes(spec, several)] == [[0], [1]]


@torch.no_grad()
def test_exits_that_are_alike_are_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, run = spec_of("cnn", "bottleneck", norm="group"), list[Exit]()
    several, plain = held(spec, [Plan(depth=depth) for depth in DEPTHS]), Exit.forward

    def noted(own: Exit, features: Any) -> Tensor:
        run.append(own)
        return plain(own, features)

    monkeypatch.setattr(Exit, "forward", noted)
    (one_pass,) = in_passes(spec, several)
    one_pass(drawn(spec, 2))
    assert len(run) == 3


@torch.no_grad()
def test_one_graph_answers_for_all_depths() -> None:
    """Smaller parts of an ordinary module are not run if the largest has their exits."""
    spec = spec_of("foreign", "plain", norm="")
    several = held(spec, [Plan(depth=depth) for depth in DEPTHS])
    x, expected = drawn(spec, 4), [predictions(one.network, drawn(spec, 4)) for one in several]
    for one in several[:-1]:
        one.network.load_state_dict({name: tensor * torch.nan for name, tensor in one.network.state_dict().items()})
    (one_pass,) = in_passes(spec, several)
    for found, theirs in zip(one_pass(x), expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(found, theirs, strict=True))
