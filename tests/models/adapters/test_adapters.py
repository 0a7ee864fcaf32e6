"""Laws of networks that are frozen in part and trained by pairs of low-rank factors."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from models import base_store
from models.adapters.adapter import Adapter, read_adapter
from models.adapters.frozen import frozen_tensors
from models.algebra.axes import Along, Kind, heads
from models.algebra.plans import Plan
from models.algebra.rates import Rates
from models.algebra.submodel import gather
from models.cost import cost_of
from models.errors import SettingError
from models.networks.bases import base_in, drawn_base, first_state
from models.networks.build import build_part, initial_state, layout, part_of, submodel, without_adapter
from models.networks.complete import completed, examples
from models.networks.merged import merged
from models.networks.spec import NetworkSpec
from models.randomness import torch_generator
from strategies import parse_ranks

LORA = Adapter(rank=4, alpha=8.0)
EVERYWHERE = replace(LORA, targets=("linear", "convolution"))
SPECS = {
    "mlp": NetworkSpec("mlp", (1, 4, 4), 3, widths=(10, 6), norm="none", adapter=LORA),
    "vit": NetworkSpec("vit", (1, 8, 8), 3, widths=(8, 12), blocks=(2,), heads=2, adapter=LORA),
    "transformer": NetworkSpec(
        "transformer", (5,), 3, widths=(8, 12), blocks=(2,), heads=2, vocabulary=11, adapter=LORA
    ),
}
CONVOLUTIONAL = {
    "cnn-strided": NetworkSpec("cnn-strided", (1, 8, 8), 3, widths=(6, 8), norm="group", adapter=EVERYWHERE),
    "cnn-flat": NetworkSpec("cnn-flat", (1, 8, 8), 3, widths=(5, 6, 7), norm="none", adapter=EVERYWHERE),
    "cnn1d": NetworkSpec("cnn1d", (2, 32), 3, norm="group", adapter=EVERYWHERE),
}


def based(name: str) -> tuple[NetworkSpec, dict[str, Tensor]]:
    """A small network on a base, and a state of it in which B is not zero."""
    spec = completed((SPECS | CONVOLUTIONAL)[name])
    spec = replace(spec, base=base_store.hold(drawn_base(spec, seed=3)))
    state, draws = initial_state(spec, torch_generator(0, 0, "server", "test")), torch_generator(1, 0, "server", "test")
    return spec, {n: t + 0.3 * torch.randn(t.shape, generator=draws) for n, t in state.items()}


def inputs_of(spec: NetworkSpec) -> Tensor:
    """A few inputs."""
    draws = torch_generator(2, 0, "server", "test")
    if spec.vocabulary:
        return torch.randint(1, spec.vocabulary, (6, *spec.input_shape), generator=draws)
    return torch.randn(6, *spec.input_shape, generator=draws)


@pytest.mark.parametrize("name", SPECS | CONVOLUTIONAL)
def test_a_state_is_pairs_and_head_and_the_base_is_the_rest(name: str) -> None:
    spec, state = based(name)
    declared, alone = layout(spec), layout(without_adapter(spec))
    factors = {one for pair in declared.pairs for one in (pair.a, pair.b)}
    assert declared.pairs
    assert set(state) == set(declared.tensors) == factors | heads(alone)
    assert set(declared.frozen) == set(alone.tensors) - heads(alone)
    assert {axis.kind for axis in declared.axes.values()} <= {Kind.RANK, Kind.FIXED, Kind.CLASS, Kind.TOKEN}
    network = part_of(spec, Plan(), state)
    assert set(network.state_dict()) == set(state)
    assert {n for n, p in network.named_parameters() if p.requires_grad} == set(state)
    assert frozen_tensors(network).keys() == declared.frozen.keys()


@pytest.mark.parametrize("name", SPECS | CONVOLUTIONAL)
def test_a_part_of_lower_rank_is_the_whole_with_the_other_ranks_at_zero(name: str) -> None:
    spec, state = based(name)
    plan, x = Plan(Fraction(1, 4)), inputs_of(spec)
    zeroed = {n: t.clone() for n, t in state.items()}
    for pair in layout(spec).pairs:
        assert submodel(spec, plan)[pair.a].local_shape[0] == 1
        zeroed[pair.a][1:], zeroed[pair.b][:, 1:] = 0, 0
    part, whole = part_of(spec, plan, state).eval(), part_of(spec, Plan(), zeroed).eval()
    assert torch.allclose(part(x), whole(x), atol=1e-6)
    assert not torch.allclose(part(x), part_of(spec, Plan(), state).eval()(x), atol=1e-3)


@pytest.mark.parametrize("name", SPECS | CONVOLUTIONAL)
def test_merged_it_computes_the_same(name: str) -> None:
    spec, state = based(name)
    x, plan = inputs_of(spec), Plan(Fraction(1, 2))
    alone, whole, tensors = merged(spec, plan, gather(state, submodel(spec, plan)))
    assert alone.adapter is None
    assert not alone.base
    ordinary = part_of(alone, whole, tensors).eval()
    assert torch.allclose(ordinary(x), part_of(spec, plan, state).eval()(x), atol=1e-5)


def test_where_b_is_zero_the_network_is_its_base() -> None:
    spec = completed(SPECS["mlp"])
    spec = replace(spec, base=base_store.hold(drawn_base(spec, seed=3)))
    first, x = first_state(without_adapter(spec), 3), inputs_of(spec)
    adapted = part_of(spec, Plan(), first_state(spec, 3)).eval()
    assert torch.equal(adapted(x), part_of(without_adapter(spec), Plan(), first).eval()(x))


def test_a_base_belongs_to_its_digest(tmp_path) -> None:  # type: ignore[no-untyped-def]
    spec = completed(SPECS["mlp"])
    one, other = drawn_base(spec, seed=1), drawn_base(spec, seed=2)
    assert base_store.digest(one) == base_store.digest(dict(reversed(one.items()))) != base_store.digest(other)
    unknown = replace(spec, base="0" * 64)
    assert cost_of(unknown, Plan()).parameters == layout(spec).parameters
    with pytest.raises(base_store.UnknownBase):
        build_part(unknown, Plan())
    (tmp_path / "no.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no\.safetensors"):
        base_in(tmp_path / "no.safetensors", spec)


def test_targets_are_kinds_of_layers_or_axes() -> None:
    def pairs(*targets: str) -> int:
        return len(layout(completed(replace(SPECS["vit"], adapter=replace(LORA, targets=targets)))).pairs)

    assert [pairs("linear"), pairs("attention"), pairs("hidden*"), pairs("hidden1")] == [8, 4, 4, 2]
    with pytest.raises(SettingError, match="adapter-targets"):
        pairs("nothing")


@pytest.mark.parametrize(
    ("name", "targets", "unmet"),
    [
        ("cnn-flat", ("linear", "convolutions"), "convolutions"),
        ("vit", ("hidden*", "attenton"), "attenton"),
        ("cnn-flat", ("attention", "conv1"), "attention"),
    ],
)
def test_every_target_is_some_layers(name: str, targets: tuple[str, ...], unmet: str) -> None:
    with pytest.raises(
        SettingError, match=f"'{unmet}': allowed is linear, attention, convolution or .* axes"
    ) as caught:
        completed(replace((SPECS | CONVOLUTIONAL)[name], adapter=replace(LORA, targets=targets)))
    assert (caught.value.key, caught.value.value) == ("adapter-targets", unmet)


def test_a_head_is_a_layer_too() -> None:
    """Of a network whose only linear layer is its head, "linear, convolution" says everything."""
    alone = NetworkSpec("cnn", (1, 8, 8), 3, widths=(4, 5), norm="group")
    found = layout(completed(replace(alone, adapter=EVERYWHERE)))
    assert len(found.pairs) == 2


@pytest.mark.parametrize(
    ("name", "exits"),
    [("resnet", "bottleneck"), ("resnet", "convolutional"), ("cnn", "bottleneck"), ("resnet", "plain")],
)
def test_pairs_of_shallower_exits_are_trained(name: str, exits: str) -> None:
    """What only a shallower exit uses is used."""
    plain = NetworkSpec(name, (1, 8, 8), 3, widths=(4, 5, 6, 7), norm="group", exits=exits)
    if name == "resnet":
        plain = replace(plain, blocks=(1, 1, 1, 1))
    spec = completed(replace(plain, adapter=EVERYWHERE))
    found = {pair.weight or pair.axis for pair in layout(spec).pairs}
    assert any("exits.1.reduce" in name for name in found) == (exits != "plain")


def test_convolutions_have_pairs_where_they_are_named() -> None:
    """By kind or by the axis of either side; their kernels stand behind the inputs of A."""

    def pairs(*targets: str) -> list[str]:
        spec = completed(replace(CONVOLUTIONAL["cnn-flat"], adapter=replace(LORA, targets=targets)))
        return [pair.axis for pair in layout(spec).pairs]

    first, second, hidden = pairs("linear", "convolution")
    assert [pairs("linear"), pairs("convolution")] == [[hidden], [first, second]]
    assert [pairs("conv1"), pairs("conv2"), pairs("hidden")] == [[first, second], [second, hidden], [hidden]]
    declared = layout(completed(CONVOLUTIONAL["cnn-flat"]))
    shapes = [(declared.tensors[pair.b].shape, declared.tensors[pair.a].shape) for pair in declared.pairs]
    assert shapes == [((5, 4), (4, 9)), ((6, 4), (4, 45)), ((7, 4), (4, 24))]
    assert declared.tensors[declared.pairs[1].a].dims[1] == Along("conv1", inner=9)
    with pytest.raises(SettingError, match="convolutions without groups"):
        completed(replace(SPECS["vit"], adapter=replace(LORA, targets=("image2",))))


def test_a_cut_base_has_the_kernels_of_its_own_channels() -> None:
    adapter = replace(EVERYWHERE, cut=True)
    spec = completed(replace(CONVOLUTIONAL["cnn-strided"], adapter=adapter))
    spec = replace(spec, base=base_store.hold(drawn_base(spec, seed=3)))
    state = initial_state(spec, torch_generator(0, 0, "server", "test"))
    plan = Plan(Rates(Fraction(1, 2), (("rank", Fraction(1, 4)),)))
    part = part_of(spec, plan, state)
    second = layout(spec).pairs[1]
    assert (part.state_dict()[second.a].shape, part.state_dict()[second.b].shape) == ((1, 27), (4, 1))
    assert torch.equal(part.state_dict()[second.a], state[second.a][:1, :27])
    assert part.eval()(inputs_of(spec)).shape == (6, 3)


def test_layers_that_are_not_called_have_no_pair() -> None:
    gru = NetworkSpec("gru", (5,), 3, vocabulary=11, widths=(4, 6), adapter=LORA)
    with pytest.raises(SettingError, match="without calling"):
        completed(gru)
    assert not layout(completed(replace(gru, adapter=Adapter(rank=0)))).pairs


def test_a_spec_with_an_adapter_crosses_the_wire() -> None:
    spec = replace(completed(SPECS["mlp"]), base="ab")
    assert NetworkSpec.from_json(spec.to_json()) == spec
    said = json.loads(without_adapter(spec).to_json())
    assert not {"adapter", "base"} & set(said)
    assert examples(spec, 2).shape == (2, 1, 4, 4)


def test_settings_say_what_is_allowed() -> None:
    assert read_adapter("lora:8", 4.0, "attention, hidden*") == Adapter(
        rank=8, alpha=4.0, targets=("attention", "hidden*")
    )
    assert read_adapter("", 4.0, "linear") is None
    for wrong in ("lora", "lora:0", "lora:-1", "lora:9999", "dora:8", "heads"):
        with pytest.raises(SettingError, match="lora:16"):
            read_adapter(wrong, 4.0, "linear")
    tiers = parse_ranks("b:4, a:16, c:3@2", 16)
    assert [(tier.name, tier.rate, tier.depth) for tier in tiers] == [
        ("a", 1, None),
        ("b", Fraction(1, 4), None),
        ("c", Fraction(3, 16), 2),
    ]
    for wrong in ("a:1/2", "a:17", "a:0", "a:1.0"):
        with pytest.raises(SettingError, match="ranks of 1 to 16"):
            parse_ranks(wrong, 16)
