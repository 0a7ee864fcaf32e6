"""Transformers: how heads are cut, what padding and depth change, and that a layer is the layer of the books."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from math import ceil, prod, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from models import (
    NetworkSpec,
    Plan,
    SettingError,
    build,
    build_part,
    completed,
    generator,
    initial_state,
    layout,
    submodel,
    torch_generator,
)
from models.cost import cost_of
from models.networks.attention import Layer, Tokens
from models.networks.staged import Staged
from models.networks.transformer import patch_of
from models.predictions import predictions
from tests.models.inputs import drawn
from tests.models.networks.test_networks import _plans
from tests.models.parts import loaded, rest_at_zero_of

TEXT = NetworkSpec("transformer", (9,), 7, widths=(24, 10), blocks=(3,), vocabulary=11, heads=4)
SPECS = {
    "text": TEXT,
    "whole": replace(TEXT, whole_heads=True),
    "pooler": replace(TEXT, pooler=True),
    "tied": replace(TEXT, tied=True),
    "tied-whole-pooler": replace(TEXT, tied=True, pooler=True, whole_heads=True),
    "vit": NetworkSpec("vit", (3, 9, 8), 7, widths=(24, 10), blocks=(3,), heads=4),
}
RATES = tuple(Fraction(text) for text in ("1", "3/4", "1/2", "1/3", "1/6"))
QUERIES_KEYS_VALUES = [f"stages.{i}.attention.queries_keys_values" for i in range(3)]


@lru_cache
def _spec(name: str, **fields: Hashable) -> NetworkSpec:
    return completed(replace(SPECS[name], **fields))  # type: ignore[arg-type]


def _state(spec: NetworkSpec, seed: int = 0) -> dict[str, Tensor]:
    """Normal weights of a usual size, and queries and keys so large that attention is far from uniform."""
    draws = torch.Generator().manual_seed(seed)
    state = {
        name: torch.randn(tensor.shape, generator=draws) / sqrt(max(prod(tensor.shape[1:]), 9))
        for name, tensor in layout(spec).tensors.items()
    }
    for path in QUERIES_KEYS_VALUES[: layout(spec).depth]:
        state[f"{path}.weight"][: 2 * spec.widths[0]] *= 3.0
    return state


def _initial(spec: NetworkSpec) -> dict[str, Tensor]:
    return initial_state(spec, torch_generator(3, 0, "server", "initial"))


def _staged(spec: NetworkSpec, state: dict[str, Tensor]) -> Staged:
    network = loaded(build(spec), state)
    assert isinstance(network, Staged)
    return network


def _widths(spec: NetworkSpec) -> tuple[int, int]:
    return spec.widths[0] // spec.heads, spec.heads


# ---- which coordinates -----------------------------------------------------------------------------------------------


def _kept(network: NetworkSpec, units: list[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Coordinates of one matrix's rows (head, coordinate of the head) in the plain way: reshape, index, flatten."""
    each, heads = _widths(network)
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
    size = _widths(spec)[int(whole)]
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
        spec, plan = _spec(name, exits=exits), Plan(rate, shift=shift, depth=depth, own_exit=own)
        part = submodel(spec, plan)
        built = {key: tuple(tensor.shape) for key, tensor in build_part(spec, plan).state_dict().items()}
        assert built == {key: block.local_shape for key, block in part.items()}


@pytest.mark.parametrize("name", SPECS)
def test_vocabulary_positions_and_classes_are_never_cut(name: str) -> None:
    spec = _spec(name)
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
    spec, plan = _spec(name, norm="none"), Plan(rate, shift=shift)
    state, x, part = _state(spec, seed), drawn(spec, 4), submodel(spec, plan)
    each, heads = _widths(spec)
    factor = 1.0 if spec.whole_heads else sqrt(each / ceil(each * rate))
    rest_at_zero = rest_at_zero_of(part, state)
    for path in QUERIES_KEYS_VALUES:
        rest_at_zero[f"{path}.weight"][: each * heads] *= factor
        rest_at_zero[f"{path}.bias"][: each * heads] *= factor
    logits = loaded(build_part(spec, plan), part.gather(state))(x)
    torch.testing.assert_close(logits, loaded(build(spec), rest_at_zero)(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["text", "pooler", "tied", "vit"])
def test_another_scale_would_be_noticed(name: str) -> None:
    spec, plan = _spec(name, norm="none"), Plan(Fraction(1, 2))
    state, x, part = _state(spec), drawn(spec, 4), submodel(spec, plan)
    logits = loaded(build_part(spec, plan), part.gather(state))(x)
    assert not torch.allclose(logits, loaded(build(spec), rest_at_zero_of(part, state))(x), rtol=1e-2, atol=1e-3)


def test_misaligned_heads_would_be_noticed() -> None:
    spec = _spec("whole", norm="none")
    state, x = _state(spec), drawn(spec, 3)
    part = submodel(spec, _plans(spec)["random"])
    gathered = part.gather(state)
    right = loaded(build_part(spec, Plan(Fraction(1, 2))), gathered)(x)
    gathered["stages.0.attention.output.weight"] = gathered["stages.0.attention.output.weight"].flip(1)
    assert not torch.allclose(loaded(build_part(spec, Plan(Fraction(1, 2))), gathered)(x), right, atol=1e-3)


@pytest.mark.parametrize("name", SPECS)
def test_layer_norm_is_over_the_width_of_the_build(name: str) -> None:
    spec, plan = _spec(name), Plan(Fraction(1, 3))
    norms = [module for module in build_part(spec, plan).modules() if isinstance(module, nn.LayerNorm)]
    assert [norm.normalized_shape for norm in norms] == [(8,)] * 7
    assert {tensor.role for key, tensor in layout(spec).tensors.items() if tensor.shape == (24,) and "norm" in key} == {
        "norm"
    }


@pytest.mark.parametrize("padded", [False, True])
def test_a_layer_is_pytorchs_encoder_layer(padded: bool) -> None:
    spec = completed(replace(TEXT, blocks=(1,)))
    network = loaded(build(spec), _state(spec))
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
    spec = _spec(name)
    network, x = loaded(build(spec), _state(spec)), drawn(spec, 4)
    assert torch.equal(network.train()(x), network.eval()(x))


# ---- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["text", "pooler", "tied"])
@settings(max_examples=8)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_padding_changes_nothing(name: str, lengths: list[int], seed: int) -> None:
    spec = _spec(name, exits="plain")
    state, draws = _state(spec, seed), torch.Generator().manual_seed(seed)
    x = torch.randint(1, 11, (len(lengths), 9), generator=draws)
    x[torch.arange(9) >= torch.tensor(lengths)[:, None]] = 0
    network = _staged(spec, state)
    logits = torch.stack(network.predictions(x))
    torch.testing.assert_close(torch.stack(network.predictions(x[:, : max(lengths)])), logits, rtol=1e-4, atol=1e-5)
    for row, length in enumerate(lengths):
        alone = torch.stack(network.predictions(x[row : row + 1, :length]))
        torch.testing.assert_close(alone[:, 0], logits[:, row], rtol=1e-4, atol=1e-5)
    state["stem.tokens.weight"][0] = 7.0
    torch.testing.assert_close(torch.stack(_staged(spec, state).predictions(x)), logits)
    other = x.clone()
    other[0, 0] = other[0, 0] % 10 + 1
    assert not torch.allclose(network(other)[0], logits[-1, 0], atol=1e-4)


@pytest.mark.parametrize("name", ["text", "tied"])
def test_an_empty_text_is_finite(name: str) -> None:
    spec = _spec(name)
    network = loaded(build(spec), _state(spec))
    logits = network(torch.zeros(2, 9, dtype=torch.int64))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_the_order_of_words_matters() -> None:
    spec = _spec("text")
    network, x = loaded(build(spec), _state(spec)), drawn(spec, 4)[1:]
    assert not torch.allclose(network(x), network(x.flip(1)), atol=1e-3)


@pytest.mark.parametrize("exits", ["last", "plain", "shared"])
def test_a_tied_classifier_has_no_weight_of_its_own(exits: str) -> None:
    """Rows of the embedding from `vocabulary - classes` on are the classes; what is before is no answer."""
    spec = _spec("tied", exits=exits, norm="none")
    state, x = _state(spec), drawn(spec, 4)
    assert [name for name in state if "classifier" in name and not name.endswith("bias")] == []
    network = _staged(spec, state)
    assert sum(p.numel() for p in network.parameters()) == layout(spec).parameters
    features = network.stem(x)
    for stage in network.stages:
        features = stage(features)
    last = [5, 8, 8, 8]  # the last third of the first text is padding
    pooled = features.x_NTC[torch.arange(4), last]
    bias = state["exits.shared.classifier.bias" if exits == "shared" else "exits.3.classifier.bias"]
    expected = pooled @ state["stem.tokens.weight"][4:].T + bias
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)
    # As input it has a gradient in the rows of x only; as classifier, in the rows of the classes.
    F.cross_entropy(network(x * 0 + 5), torch.zeros(4, dtype=torch.int64)).backward()  # type: ignore[no-untyped-call]
    weight = network.get_parameter("stem.tokens.weight")
    assert weight.grad is not None
    assert weight.grad.abs().sum(1).ne(0).tolist() == [False] * 4 + [True] * 7


# ---- depth -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("exits", ["plain", "shared"])
def test_a_depth_is_the_first_layers_and_their_exit(name: str, exits: str) -> None:
    spec = _spec(name, exits=exits)
    state, x = _state(spec), drawn(spec, 4)
    full = _staged(spec, state)
    assert layout(spec).exits == {1, 2, 3}
    features = full.stem(x)
    for depth, stage in enumerate(full.stages, 1):
        features = stage(features)
        expected = full.exits["shared" if exits == "shared" else str(depth)](features)
        for own in (False, True):
            plan = Plan(depth=depth, own_exit=own)
            network = loaded(build_part(spec, plan), submodel(spec, plan).gather(state))
            assert torch.equal(network(x), expected)
            count = 1 if own or exits == "shared" else depth
            assert len(predictions(network, x)) == count
        if exits == "plain":
            assert torch.equal(predictions(full, x)[depth - 1], expected)


@pytest.mark.parametrize("name", SPECS)
def test_a_layer_that_is_left_out_is_passed_by(name: str) -> None:
    spec = _spec(name, step_sizes=True)
    state, x, plan = _state(spec), drawn(spec, 4), Plan(dropped=(2,))
    assert layout(spec).blocks == {1, 2, 3}
    part = submodel(spec, plan)
    assert [key for key in part if key.startswith("stages.1.")] == []
    without = loaded(build_part(spec, plan), part.gather(state))(x)
    for step in ("step1", "step2"):  # NeFL's step sizes: of both branches
        assert layout(spec).tensors[f"stages.1.{step}.size"].role == "step"
        state[f"stages.1.{step}.size"].zero_()
    torch.testing.assert_close(without, loaded(build(spec), state)(x))


@pytest.mark.parametrize("name", ["text", "tied", "vit"])
@pytest.mark.parametrize("exits", ["plain", "shared"])
def test_last_layers_can_be_private_and_embeddings_stay_shared(name: str, exits: str) -> None:
    variants = [Plan(depth=depth, own_exit=exits == "plain") for depth in (1, 2)] + [Plan(own_exit=exits == "plain")]
    spec = _spec(name, exits=exits, private=("stage",), variants=tuple(plan.to_json() for plan in variants))
    for number, plan in enumerate(variants):
        blocks = submodel(spec, plan)
        own = {key for key, block in blocks.items() if block.source != key}
        assert own == {key for key in blocks if plan.depth and key.startswith(f"stages.{number}.")}
        loaded(build_part(spec, plan), blocks.gather(_initial(spec)))


@pytest.mark.parametrize("name", ["text", "vit"])
def test_norms_can_be_private(name: str) -> None:
    variants = (Plan(Fraction(1, 2)), Plan())
    spec = _spec(name, private=("norm",), variants=tuple(plan.to_json() for plan in variants))
    for plan in variants:
        part = submodel(spec, plan)
        assert sum(block.source != key for key, block in part.items()) == 14  # two tensors of seven norms
        loaded(build_part(spec, plan), part.gather(_initial(spec)))


# ---- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sides", "patch"), [((4, 4), 2), ((8, 8), 2), ((28, 28), 4), ((32, 32), 4), ((64, 80), 8), ((224, 224), 16)]
)
def test_patches_go_with_the_size(sides: tuple[int, int], patch: int) -> None:
    assert patch_of(sides) == patch
    spec = completed(NetworkSpec("vit", (1, *sides), 3))
    assert layout(spec).axes["position"].size == (sides[0] // patch) * (sides[1] // patch)


def test_patches_see_every_pixel_once() -> None:
    """9 rows are five rows of patches, the last of them half empty."""
    spec = _spec("vit", norm="none")
    stem = loaded(build(spec), _state(spec)).get_submodule("stem")
    x = drawn(spec, 1)
    before = stem(x).x_NTC
    for row in range(9):
        for column in range(8):
            other = x.clone()
            other[0, 1, row, column] += 1.0
            changed = (stem(other).x_NTC != before).any(2)[0].nonzero().flatten().tolist()
            assert changed == [row // 2 * 4 + column // 2]


# ---- costs, settings, training ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("exits", ["plain", "shared"])
@pytest.mark.parametrize("name", ["text", "whole", "tied", "vit"])
@pytest.mark.parametrize("rate", [Fraction(1), Fraction(1, 2)])
def test_every_product_is_counted(name: str, rate: Fraction, exits: str) -> None:
    spec = _spec(name, exits=exits)
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
        submodel(_spec("text", exits="plain"), Plan(depth=4))
    with pytest.raises(ValueError, match="depth = 1"):
        submodel(_spec("text"), Plan(depth=1))


@pytest.mark.parametrize("name", SPECS)
def test_training_lowers_the_loss(name: str) -> None:
    """Plain SGD with momentum and clipping, as devices train: the label follows from the input."""
    spec = _spec(name, exits="plain")
    network = loaded(build(spec), _initial(spec)).train()
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
