"""Declarations held against the networks themselves: shapes, parameter counts, and what the cut network computes."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from models import (
    Kind,
    NetworkSpec,
    Plan,
    SettingError,
    build,
    build_part,
    completed,
    generator,
    initial_state,
    kept_units,
    layout,
    submodel,
    torch_generator,
)
from models.networks.registry import NETWORKS
from tests.models.inputs import drawn
from tests.models.parts import loaded, rest_at_zero_of

RATES = tuple(Fraction(1, n) for n in (4, 3, 2, 1))
SHAPE = (3, 8, 8)
SHAPES = {
    "mlp": NetworkSpec("mlp", (1, 5, 4), 7, widths=(13, 6)),
    "cnn": NetworkSpec("cnn", (3, 9, 8), 7, widths=(5, 8, 6, 7)),
    "cnn-flat": NetworkSpec("cnn-flat", (3, 9, 8), 7, widths=(5, 8, 11)),
    "cnn-strided": NetworkSpec("cnn-strided", (3, 9, 8), 7, widths=(5, 8, 6, 7)),
    "resnet-1112": NetworkSpec("resnet", (3, 8, 8), 7, widths=(5, 6, 7, 8)),
    "resnet-2222": NetworkSpec("resnet", (3, 8, 8), 7, widths=(5, 6, 7, 8), blocks=(2, 2, 2, 2)),
    "resnet-flat-widths": NetworkSpec("resnet", (3, 8, 8), 7, widths=(6, 6), blocks=(1, 2)),
    "resnet-post": NetworkSpec("resnet-post", (3, 8, 8), 7, widths=(5, 6, 7, 8)),
    "cnn1d": NetworkSpec("cnn1d", (3, 16), 7, widths=(5, 8, 6)),
    "gru-text": NetworkSpec("gru", (9,), 7, widths=(5, 8, 6), vocabulary=11),
    "gru-signal": NetworkSpec("gru", (3, 9), 7, widths=(5, 8, 6)),
    "transformer": NetworkSpec("transformer", (9,), 7, widths=(12, 10), blocks=(2,), vocabulary=11, heads=2),
    "transformer-whole": NetworkSpec(
        "transformer", (9,), 7, widths=(20, 10), blocks=(2,), vocabulary=11, heads=5, whole_heads=True, pooler=True
    ),
    "transformer-tied": NetworkSpec(
        "transformer", (9,), 7, widths=(20, 10), blocks=(2,), vocabulary=11, heads=4, whole_heads=True, tied=True
    ),
    "vit": NetworkSpec("vit", (3, 9, 8), 7, widths=(12, 10), blocks=(2,), heads=2),
}
# Narrower heads have a scale of their own: tests/models/networks/test_transformer.py allows for it.
EXACT = [name for name, spec in SHAPES.items() if spec.whole_heads or spec.name not in ("transformer", "vit")]
NORMED = [(name, norm) for name, spec in SHAPES.items() for norm in NETWORKS[spec.name].norms]


def _spec(name: str, norm: str = "none", *, scaler: bool = False) -> NetworkSpec:
    return completed(replace(SHAPES[name], norm=norm, scaler=scaler, rates=RATES))


def _plans(spec: NetworkSpec) -> dict[str, Plan]:
    draws = generator(0, 0, 0, "test")
    axes = [axis for axis in layout(spec).axes.values() if axis.kind is Kind.WIDTH]
    chosen = tuple(
        (a.name, tuple(draws.choice(a.size, kept_units(a.size, Fraction(1, 2)), replace=False).tolist())) for a in axes
    )
    return {
        "leading": Plan(Fraction(1, 2)),
        "rolling": Plan(Fraction(1, 3), shift=-2),
        "random": Plan(Fraction(1, 2), units=chosen),
        "floor": Plan(Fraction(1, 4), floor=True),
        "full": Plan(),
    }


def _state(spec: NetworkSpec) -> dict[str, Tensor]:
    """Weights large enough that what enters a network without norms still shows where it leaves."""
    return {
        name: 2.5 * tensor for name, tensor in initial_state(spec, torch_generator(1, 0, "server", "initial")).items()
    }


def test_every_registered_network_is_here() -> None:
    assert {spec.name for spec in SHAPES.values()} == set(NETWORKS)


@pytest.mark.parametrize("scaler", [False, True])
@pytest.mark.parametrize(("name", "norm"), NORMED)
def test_a_part_has_the_shapes_that_the_declaration_says(name: str, norm: str, scaler: bool) -> None:
    spec = _spec(name, norm, scaler=scaler)
    for rate in RATES:
        plan = Plan(rate)
        built = {key: tuple(tensor.shape) for key, tensor in build_part(spec, plan).state_dict().items()}
        assert built == {key: block.local_shape for key, block in submodel(spec, plan).items()}
    assert list(submodel(spec, Plan())) == list(build(spec).state_dict())


@pytest.mark.parametrize(("name", "norm"), [pair for pair in NORMED if pair[1] != "batch-per-width"])
def test_any_units_load_strictly(name: str, norm: str) -> None:
    spec = _spec(name, norm)
    for plan in _plans(spec).values():
        build_part(spec, plan).load_state_dict(submodel(spec, plan).gather(_state(spec)))


@pytest.mark.parametrize("name", EXACT)
def test_a_part_computes_what_the_full_network_does_with_the_rest_at_zero(name: str) -> None:
    """Only true if every tensor's units are aligned, through shortcuts and flattened channels too."""
    spec = _spec(name)
    state, x = _state(spec), drawn(spec, 4)
    for kind, plan in _plans(spec).items():
        part = submodel(spec, plan)
        network = loaded(build_part(spec, plan), part.gather(state))
        rest_at_zero = loaded(build(spec), rest_at_zero_of(part, state))
        assert kind == "floor" or network(x).std(0).max() > 1e-3, f"{kind}: nothing to compare"
        torch.testing.assert_close(network(x), rest_at_zero(x), rtol=1e-4, atol=1e-5, msg=f"{name} {kind}")
        if kind != "full":
            assert not torch.allclose(network(x), loaded(build(spec), state)(x), atol=1e-4)


def test_misaligned_shortcuts_would_be_noticed() -> None:
    """The alignment test can fail: with units drawn per tensor, the identity shortcut adds unrelated channels."""
    spec = _spec("resnet-2222")
    state, x = _state(spec), torch.randn(2, *spec.input_shape, generator=torch_generator(0, 0, 0, "x"))
    plan = _plans(spec)["random"]
    part = submodel(spec, plan)
    gathered = part.gather(state)
    gathered["stages.0.0.conv2.weight"] = gathered["stages.0.0.conv2.weight"].flip(0)
    misaligned = loaded(build_part(spec, plan), gathered)
    assert not torch.allclose(misaligned(x), loaded(build(spec), rest_at_zero_of(part, state))(x), atol=1e-4)


@pytest.mark.parametrize(
    ("blocks", "counts"),
    [
        ((1, 1, 1, 2), (9_622_090, 2_408_746, 603_802, 151_762, 38_350)),
        ((2, 2, 2, 2), (11_172_170, 2_796_714, 701_018, 176_178, 44_510)),
    ],
)
def test_heterofls_parameter_counts(blocks: tuple[int, ...], counts: tuple[int, ...]) -> None:
    spec = completed(NetworkSpec("resnet", (3, 32, 32), 10, blocks=blocks, scaler=True))
    assert tuple(submodel(spec, Plan(Fraction(1, 2**level))).numel for level in range(5)) == counts
    with torch.device("meta"):
        assert (
            tuple(sum(p.numel() for p in build_part(spec, Plan(Fraction(1, 2**i))).parameters()) for i in range(5))
            == counts
        )


def test_the_network_of_pfl_researchs_benchmark() -> None:
    assert layout(completed(NetworkSpec("cnn-flat", (3, 32, 32), 10, norm="none"))).parameters == 1_626_442


@pytest.mark.parametrize("name", SHAPES)
def test_exits_and_stages_are_declared(name: str) -> None:
    spec = _spec(name, "")
    declared = layout(spec)
    assert declared.exits == {declared.depth}
    stages = {t.stage for t in declared.tensors.values() if not t.exit}
    assert stages - {0} == set(range(1, declared.depth + 1))  # 0: embeddings, which every depth holds
    assert submodel(spec, Plan(depth=declared.depth)).numel == declared.parameters


@pytest.mark.parametrize("name", SHAPES)
def test_specs_survive_json(name: str) -> None:
    spec = _spec(name, NETWORKS[SHAPES[name].name].norms[0], scaler=True)
    assert NetworkSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("text", ["[]", "{}", "3", '{"input_shape": [1, 2]}', '{"input_shape": 1}'])
def test_what_is_no_network_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a network|not enough values"):
        NetworkSpec.from_json(text)


@pytest.mark.parametrize(
    ("spec", "key"),
    [
        (NetworkSpec("resnext", SHAPE, 10), "model"),
        (NetworkSpec("mlp", SHAPE, 10, norm="layer"), "norm"),
        (NetworkSpec("mlp", SHAPE, 10, norm="instance"), "norm"),
        (NetworkSpec("cnn-flat", SHAPE, 10, widths=(4, 4)), "widths"),
        (NetworkSpec("mlp", SHAPE, 10, widths=(4, 0)), "widths"),
        (NetworkSpec("mlp", SHAPE, 10, blocks=(1,)), "blocks"),
        (NetworkSpec("resnet", SHAPE, 10, blocks=(1, 2)), "blocks"),
        (NetworkSpec("resnet", SHAPE, 10, widths=(4, 8)), "widths"),
        (NetworkSpec("resnet", (3, 8, 7), 10), "model"),
        (NetworkSpec("cnn1d", SHAPE, 10), "model"),
        (NetworkSpec("cnn", (9, 128), 6), "model"),
        (NetworkSpec("cnn1d", (3, 3), 10), "model"),
        (NetworkSpec("cnn1d", (3, 4), 10, widths=(4, 4, 4, 4)), "widths"),
        (NetworkSpec("cnn1d", (12,), 2, vocabulary=9), "model"),
        (NetworkSpec("gru", (12,), 2), "model"),
        (NetworkSpec("gru", (12,), 2, widths=(8,), vocabulary=9), "widths"),
    ],
)
def test_a_wrong_spec_names_its_key(spec: NetworkSpec, key: str) -> None:
    with pytest.raises(SettingError) as error:
        completed(spec)
    assert error.value.key == key
    assert error.value.allowed
