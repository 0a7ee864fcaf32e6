"""Stages, exits and mixtures: the declaration of every depth against the network itself."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models import NetworkSpec, Plan, SettingError, build_part, completed, initial_state, layout, submodel
from models.cost import cost_of, training_bytes
from models.networks.registry import with_exits
from models.networks.staged import Staged
from models.predictions import predictions
from models.statistics import collect, needs_statistics, set_statistics
from models.variants.base_nets import BaseNets
from tests.models.generators import bits

NETS = {
    "mlp": NetworkSpec("mlp", (2, 4, 3), 5, widths=(6, 6, 4)),
    "cnn": NetworkSpec("cnn", (2, 9, 8), 5, widths=(4, 6, 8)),
    "cnn-flat": NetworkSpec("cnn-flat", (2, 9, 8), 5, widths=(4, 6, 8)),
    "resnet": NetworkSpec("resnet", (2, 8, 8), 5, widths=(4, 6, 8), blocks=(1, 2, 1)),
    "resnet-post": NetworkSpec("resnet-post", (2, 8, 8), 5, widths=(4, 6, 8), blocks=(1, 2, 1)),
}
KINDS = [(name, kind) for name in NETS for kind in ("plain", "bottleneck") if kind == "plain" or "flat" not in name]
KINDS.remove(("mlp", "bottleneck"))


def spec_of(name: str, exits: str, norm: str = "none") -> NetworkSpec:
    return completed(replace(NETS[name], exits=exits, norm=norm))


def state_of(spec: NetworkSpec) -> dict[str, Tensor]:
    return initial_state(spec, torch.Generator().manual_seed(3))


def loaded(spec: NetworkSpec, plan: Plan) -> Staged:
    network = build_part(spec, plan)
    network.load_state_dict(submodel(spec, plan).gather(state_of(spec)))
    assert isinstance(network, Staged)
    return network.eval()


def images(spec: NetworkSpec, count: int = 3) -> Tensor:
    return torch.randn(count, *spec.input_shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "exits"), KINDS)
@pytest.mark.parametrize("norm", ["none", "static-batch", "group"])
def test_every_depth_and_width_has_the_declared_shapes(name: str, exits: str, norm: str) -> None:
    spec = spec_of(name, exits, norm)
    assert sorted(layout(spec).exits) == [1, 2, 3]
    for depth in (1, 2, 3, None):
        for own in (False, True):
            for rate in (Fraction(1), Fraction(1, 2)):
                plan = Plan(rate, depth=depth, own_exit=own)
                built = {key: tuple(tensor.shape) for key, tensor in build_part(spec, plan).state_dict().items()}
                assert built == {key: block.local_shape for key, block in submodel(spec, plan).items()}
    assert list(submodel(spec, Plan())) == list(layout(spec).tensors)


@pytest.mark.parametrize(("name", "exits"), KINDS)
def test_a_shallow_network_predicts_what_the_deep_ones_first_exits_do(name: str, exits: str) -> None:
    spec, deep = spec_of(name, exits), loaded(spec_of(name, exits), Plan())
    x = images(spec)
    everything = deep.predictions(x)
    assert len(everything) == 3
    assert torch.equal(deep(x), everything[-1])
    for depth in (1, 2, 3):
        shallow = loaded(spec, Plan(depth=depth))
        for ours, theirs in zip(shallow.predictions(x), everything, strict=False):
            torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(shallow(x), everything[depth - 1])
        torch.testing.assert_close(loaded(spec, Plan(depth=depth, own_exit=True))(x), everything[depth - 1])


def test_a_shared_exit_is_held_at_every_depth() -> None:
    spec = spec_of("cnn", "plain")
    with pytest.raises(SettingError, match="one of last, plain, bottleneck, convolutional for 'cnn'"):
        completed(replace(spec, exits="shared"))
    with pytest.raises(SettingError, match="one of last, plain, shared for 'mlp'"):
        completed(replace(NETS["mlp"], exits="bottleneck"))
    assert with_exits(NETS["mlp"], "bottleneck").exits == "plain"
    assert with_exits(NETS["cnn"], "bottleneck").exits == "bottleneck"


def test_one_last_exit_cannot_be_cut() -> None:
    spec = completed(NETS["cnn"])
    with pytest.raises(ValueError, match=r"depth = 2: allowed is one of \[3\]"):
        submodel(spec, Plan(depth=2))


def test_statistics_are_gathered_for_every_exit() -> None:
    spec = spec_of("resnet", "bottleneck", "static-batch")
    network = loaded(spec, Plan())
    assert needs_statistics(network)
    set_statistics(network, collect(network, [images(spec, 16)]))
    assert all(part.isfinite().all() for part in network.eval().predictions(images(spec)))


def test_the_macs_of_every_exit() -> None:
    """All exits are computed in training, the deepest one alone when the part predicts."""
    spec = spec_of("mlp", "plain")
    stages, exits = [24 * 6, 6 * 6, 6 * 4], [6 * 5, 6 * 5, 4 * 5]
    for depth in (1, 2, 3):
        plan = Plan(depth=depth)
        assert cost_of(spec, plan).macs == sum(stages[:depth]) + exits[depth - 1]
        assert cost_of(spec, plan, every_exit=True).macs == sum(stages[:depth]) + sum(exits[:depth])
        assert cost_of(spec, plan, every_exit=True).parameters == cost_of(spec, plan).parameters
        own = Plan(depth=depth, own_exit=True)
        assert cost_of(spec, own, every_exit=True) == cost_of(spec, own)
    mixture = completed(replace(NETS["mlp"], norm="none", bases=3))
    assert cost_of(mixture, Plan(), every_exit=True) == cost_of(mixture, Plan())


def test_training_keeps_what_every_exit_needs() -> None:
    plain, last = spec_of("cnn", "bottleneck"), spec_of("cnn", "last")
    beyond = 5 * 4 * (layout(plain).parameters - layout(last).parameters)  # five vectors of float32
    assert training_bytes(plain, Plan(), 8) > training_bytes(last, Plan(), 8) + beyond


def test_odd_sides_pass_a_bottleneck() -> None:
    for side in (8, 9, 11):
        spec = completed(replace(NETS["cnn"], input_shape=(1, side, side + 1), exits="bottleneck", norm="none"))
        assert loaded(spec, Plan()).predictions(images(spec))[0].shape == (3, 5)


def test_dropped_blocks_are_neither_built_nor_held() -> None:
    spec = completed(replace(NETS["resnet"], step_sizes=True, norm="none"))
    assert sorted(layout(spec).blocks) == [1, 2]  # stage 1 has one without a projection, stage 2 its second
    full, x = loaded(spec, Plan()), images(spec)
    for dropped in ((1,), (2,), (1, 2)):
        part = submodel(spec, Plan(dropped=dropped))
        assert {layout(spec).tensors[name].block for name in part} == {0, 1, 2} - set(dropped)
        assert not torch.allclose(loaded(spec, Plan(dropped=dropped))(x), full(x))
    with pytest.raises(ValueError, match=r"blocks \[7\] cannot be left out: allowed is \[1, 2\]"):
        submodel(spec, Plan(dropped=(7,)))


@given(st.lists(st.integers(0, 3), unique=True, min_size=1))
def test_a_mixture_is_the_mean_of_the_nets_it_holds(chosen: list[int]) -> None:
    spec = completed(replace(NETS["mlp"], norm="none", bases=4))
    alone = replace(spec, bases=0)
    state, x = state_of(spec), images(spec)
    assert len(layout(spec).tensors) == 4 * len(layout(alone).tensors)
    plan = Plan(bases=tuple(chosen))
    mixture = build_part(spec, plan)
    assert isinstance(mixture, BaseNets)
    mixture.load_state_dict(submodel(spec, plan).gather(state))
    singles = []
    for base in chosen:
        net = build_part(alone, Plan())
        net.load_state_dict({name: state[f"bases.{base}.{name}"] for name in layout(alone).tensors})
        singles.append(net(x))
    for ours, theirs in zip(predictions(mixture, x), singles, strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(mixture(x), torch.stack(singles).mean(0))


def test_nets_of_a_mixture_begin_differently() -> None:
    state = state_of(completed(replace(NETS["mlp"], bases=2)))
    assert not torch.equal(state["bases.0.stages.0.0.weight"], state["bases.1.stages.0.0.weight"])


@pytest.mark.parametrize("bases", [(), (0, 0), (4,), (-1,)])
def test_nets_that_do_not_exist_are_refused(bases: tuple[int, ...]) -> None:
    spec = completed(replace(NETS["mlp"], bases=4))
    with pytest.raises(ValueError, match="bases"):
        submodel(spec, Plan(bases=bases))


@given(
    st.builds(
        Plan,
        rate=st.sampled_from([Fraction(1), Fraction(1, 3)]),
        shift=st.integers(-3, 3),
        depth=st.none() | st.integers(1, 9),
        floor=st.booleans(),
        own_exit=st.booleans(),
        dropped=st.lists(st.integers(1, 9), unique=True).map(tuple),
        bases=st.none() | st.lists(st.integers(0, 9), unique=True, min_size=1).map(tuple),
        keep=st.sampled_from([Fraction(1), Fraction(1, 16)]),
    )
)
def test_plans_survive_the_wire(plan: Plan) -> None:
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(("name", "exits"), KINDS)
def test_scatter_undoes_gather(name: str, exits: str) -> None:
    spec = spec_of(name, exits)
    state = state_of(spec)
    for plan in (Plan(), Plan(Fraction(1, 2), depth=2), Plan(Fraction(1, 3), shift=-2)):
        target = {key: torch.full_like(tensor, 9.0) for key, tensor in state.items()}
        part = submodel(spec, plan)
        for key, values in part.gather(state).items():
            part[key].scatter(values, target[part[key].source])
        for key, values in part.gather(target).items():
            assert bits(values) == bits(part[key].gather(state[part[key].source]))
        held = sum(block.numel for block in part.values())
        assert sum(int((tensor != 9.0).sum()) for tensor in target.values()) == held
