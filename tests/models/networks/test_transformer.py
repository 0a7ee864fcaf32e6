"""Parts of transformers: which coordinates, and what they compute."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import ceil, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from models import (
    NetworkSpec,
    Plan,
    SettingError,
    build,
    build_part,
    completed,
    generator,
    layout,
    submodel,
    torch_generator,
)
from models.cost import cost_of
from models.networks.attention import Layer, Tokens
from models.predictions import predictions
from tests.models.inputs import drawn
from tests.models.networks.test_networks import _plans
from tests.models.networks.transformers import (
    QUERIES_KEYS_VALUES,
    RATES,
    SPECS,
    TEXT,
    first_state,
    head_widths,
    spec_named,
    state_for,
)
from tests.models.parts import loaded, rest_at_zero_of

# ---- which coordinates -----------------------------------------------------------------------------------------------


def _kept(network: NetworkSpec, units: list[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Coordinates of one matrix's rows (head, coordinate of the head) in the plain way: reshape, index, flatten."""
    each, heads = head_widths(network)
    rows = np.arange(heads * each).reshape(heads, each)
    return (rows[units] if network.whole_heads else rows[:, units]).flatten()


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("draw", ["leading", "rolling", "random"])
def test_heads_are_cut_as_described(draw: str, rate: Fraction, whole: bool) -> None:
    """HeteroFL: reshape to heads x coordinates, keep the first of every head; three matrices alike, and the output."""
    spec = completed(
        NetworkSpec("transformer", (5,), 2, widths=(1400, 64), blocks=(2,), vocabulary=9, heads=14, whole_heads=whole)
    )
    size = head_widths(spec)[int(whole)]
    count, shift = ceil(size * rate), 3 if draw == "rolling" else 0
    units = [i % size for i in range(shift, shift + count)] if count < size else list(range(size))
    plan = Plan(rate, shift=shift)
    if draw == "random":
        units = sorted(generator(0, 0, 0, "units").permutation(size)[:count].tolist())
        plan = Plan(rate, units=(("head2", tuple(units)),))
    part, kept = submodel(spec, plan), _kept(spec, units)
    rows = np.concatenate([i * 1400 + kept for i in range(3)])
    weights = {
        "stages.1.attention.queries_keys_values.weight": (rows, 0),
        "stages.1.attention.queries_keys_values.bias": (rows, 0),
        "stages.1.attention.output.weight": (kept, 1),
    }
    for name, (expected, dim) in weights.items():
        index = part[name].indices[dim]
        actual = torch.arange(part[name].shape[dim]) if index is None else index
        assert np.array_equal(actual.numpy(), expected), name


@pytest.mark.parametrize("name", SPECS)
@settings(max_examples=8)
@given(rate=st.sampled_from(RATES), depth=st.sampled_from([None, 1, 2, 3]), own=st.booleans(), shift=st.integers(-9, 9))
def test_any_part_has_the_declared_shapes(name: str, rate: Fraction, depth: int | None, own: bool, shift: int) -> None:
    for exits in ("plain", "shared"):
        spec, plan = spec_named(name, exits=exits), Plan(rate, shift=shift, depth=depth, own_exit=own)
        part = submodel(spec, plan)
        built = {key: tuple(tensor.shape) for key, tensor in build_part(spec, plan).state_dict().items()}
        assert built == {key: block.local_shape for key, block in part.items()}


@pytest.mark.parametrize("name", SPECS)
def test_vocabulary_positions_and_classes_are_never_cut(name: str) -> None:
    spec = spec_named(name)
    part = submodel(spec, Plan(Fraction(1, 6)))
    assert part["stem.positions.weight"].local_shape == (spec.input_shape[0] if spec.vocabulary else 20, 4)
    if spec.vocabulary:
        assert part["stem.tokens.weight"].local_shape == (11, 4)
    assert part["exits.3.classifier.bias"].local_shape == (7,)


# ---- what a part computes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
@settings(max_examples=8)
@given(rate=st.sampled_from(RATES), shift=st.integers(-9, 9), seed=st.integers(0, 99))
def test_narrow_heads_scale_by_their_own_size(name: str, rate: Fraction, shift: int, seed: int) -> None:
    """A part is the full network with the rest at zero and queries larger by the root of d_full / d_part."""
    spec, plan = spec_named(name, norm="none"), Plan(rate, shift=shift)
    state, x, part = state_for(spec, seed), drawn(spec, 4), submodel(spec, plan)
    each, heads = head_widths(spec)
    factor = 1.0 if spec.whole_heads else sqrt(each / ceil(each * rate))
    rest_at_zero = rest_at_zero_of(part, state)
    for path in QUERIES_KEYS_VALUES:
        rest_at_zero[f"{path}.weight"][: each * heads] *= factor
        rest_at_zero[f"{path}.bias"][: each * heads] *= factor
    logits = loaded(build_part(spec, plan), part.gather(state))(x)
    torch.testing.assert_close(logits, loaded(build(spec), rest_at_zero)(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["text", "pooler", "tied", "vit"])
def test_another_scale_would_be_noticed(name: str) -> None:
    spec, plan = spec_named(name, norm="none"), Plan(Fraction(1, 2))
    state, x, part = state_for(spec), drawn(spec, 4), submodel(spec, plan)
    logits = loaded(build_part(spec, plan), part.gather(state))(x)
    assert not torch.allclose(logits, loaded(build(spec), rest_at_zero_of(part, state))(x), rtol=1e-2, atol=1e-3)


def test_misaligned_heads_would_be_noticed() -> None:
    spec = spec_named("whole", norm="none")
    state, x = state_for(spec), drawn(spec, 3)
    part = submodel(spec, _plans(spec)["random"])
    gathered = part.gather(state)
    right = loaded(build_part(spec, Plan(Fraction(1, 2))), gathered)(x)
    gathered["stages.0.attention.output.weight"] = gathered["stages.0.attention.output.weight"].flip(1)
    assert not torch.allclose(loaded(build_part(spec, Plan(Fraction(1, 2))), gathered)(x), right, atol=1e-3)


@pytest.mark.parametrize("name", SPECS)
def test_layer_norm_is_over_the_width_of_the_build(name: str) -> None:
    spec, plan = spec_named(name), Plan(Fraction(1, 3))
    norms = [module for module in build_part(spec, plan).modules() if isinstance(module, nn.LayerNorm)]
    assert [norm.normalized_shape for norm in norms] == [(8,)] * 7
    assert {tensor.role for key, tensor in layout(spec).tensors.items() if tensor.shape == (24,) and "norm" in key} == {
        "norm"
    }


@pytest.mark.parametrize("padded", [False, True])
def test_a_layer_is_pytorchs_encoder_layer(padded: bool) -> None:
    spec = completed(replace(TEXT, blocks=(1,)))
    network = loaded(build(spec), state_for(spec))
    ours = network.get_submodule("stages.0")
    assert isinstance(ours, Layer)
    theirs = nn.TransformerEncoderLayer(
        24, 4, dim_feedforward=10, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    pairs = {
        "self_attn.in_proj_": "attention.queries_keys_values.",
        "self_attn.out_proj.": "attention.output.",
        "linear1.": "expand.",
        "linear2.": "contract.",
        "norm1.": "norm1.norm.",
        "norm2.": "norm2.norm.",
    }
    own = ours.state_dict()
    theirs.load_state_dict({to + leaf: own[by + leaf] for to, by in pairs.items() for leaf in ("weight", "bias")})
    x_NTC = torch.randn(3, 9, 24, generator=torch_generator(0, 0, 0, "x"))
    present_NT = torch.ones(3, 9, dtype=torch.bool)
    present_NT[1, 4:] = present_NT[2, 1:] = not padded
    expected = theirs.train()(x_NTC, src_key_padding_mask=~present_NT)
    actual, _ = ours(Tokens(x_NTC, present_NT))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SPECS)
def test_nothing_is_random(name: str) -> None:
    spec = spec_named(name)
    network, x = loaded(build(spec), state_for(spec)), drawn(spec, 4)
    assert torch.equal(network.train()(x), network.eval()(x))


# ---- costs, settings, training ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("exits", ["plain", "shared"])
@pytest.mark.parametrize("name", ["text", "whole", "tied", "vit"])
@pytest.mark.parametrize("rate", [Fraction(1), Fraction(1, 2)])
def test_every_product_is_counted(name: str, rate: Fraction, exits: str) -> None:
    spec = spec_named(name, exits=exits)
    stream, hidden, inner = (int(size * rate) for size in (24, 10, 24))
    length = 9 if spec.vocabulary else 20
    layer = length * (4 * stream * inner + 2 * length * inner + 2 * stream * hidden)
    patches = 0 if spec.vocabulary else length * 12 * stream
    for depth in (1, 3):
        plan = Plan(rate, depth=depth)
        size = cost_of(spec, plan)
        assert size.macs == depth * layer + patches + stream * 7
        assert size.parameters == submodel(spec, plan).numel


REFUSED: list[tuple[NetworkSpec, str]] = [
    (replace(TEXT, heads=5), "heads"),
    (replace(TEXT, heads=0), "heads"),
    (replace(TEXT, norm="group"), "norm"),
    (replace(TEXT, norm="static-batch"), "norm"),
    (replace(TEXT, exits="bottleneck"), "exits"),
    (replace(TEXT, widths=(24,)), "widths"),
    (replace(TEXT, widths=(24, 10, 10)), "widths"),
    (replace(TEXT, blocks=(1, 1)), "blocks"),
    (replace(TEXT, blocks=(0,)), "blocks"),
    (replace(TEXT, tied=True, classes=12), "tied"),
    (replace(TEXT, vocabulary=0), "model"),
    (replace(SPECS["vit"], tied=True), "tied"),
    (replace(SPECS["vit"], input_shape=(3, 8, 3)), "model"),
    (replace(SPECS["vit"], norm="static-batch"), "norm"),
]


@pytest.mark.parametrize(("spec", "key"), REFUSED)
def test_a_wrong_spec_names_its_key(spec: NetworkSpec, key: str) -> None:
    with pytest.raises(SettingError) as error:
        completed(spec)
    assert error.value.key == key


def test_a_depth_that_it_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="depth = 4"):
        submodel(spec_named("text", exits="plain"), Plan(depth=4))
    with pytest.raises(ValueError, match="depth = 1"):
        submodel(spec_named("text"), Plan(depth=1))


@pytest.mark.parametrize("name", SPECS)
def test_training_lowers_the_loss(name: str) -> None:
    """Plain SGD with momentum and clipping, as devices train: the label follows from the input."""
    spec = spec_named(name, exits="plain")
    network = loaded(build(spec), first_state(spec)).train()
    draws = torch_generator(0, 0, 0, "x")
    if spec.vocabulary:
        x = torch.randint(1, 11, (64, 9), generator=draws)
        y = (x[:, -1] + 1) % 7
    else:
        x = torch.randn(64, *spec.input_shape, generator=draws)
        y = x[:, 0].mean((1, 2)).mul(8).long().clamp(-3, 3) + 3
    optimiser = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    losses = []
    for _ in range(25):
        loss = torch.stack([F.cross_entropy(logits, y) for logits in predictions(network, x)]).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
