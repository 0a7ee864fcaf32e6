"""What transformers read: texts with padding and an order, images as patches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from models import (
    NetworkSpec,
    build,
    completed,
    layout,
)
from models.networks.transformer import patch_of
from tests.models.inputs import drawn
from tests.models.networks.transformers import spec_named, staged_network, state_for
from tests.models.parts import loaded


@pytest.mark.parametrize("name", ["text", "pooler", "tied"])
@settings(max_examples=8)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_padding_changes_nothing(name: str, lengths: list[int], seed: int) -> None:
    spec = spec_named(name, exits="plain")
    state, draws = state_for(spec, seed), torch.Generator().manual_seed(seed)
    x = torch.randint(1, 11, (len(lengths), 9), generator=draws)
    x[torch.arange(9) >= torch.tensor(lengths)[:, None]] = 0
    network = staged_network(spec, state)
    logits = torch.stack(network.predictions(x))
    torch.testing.assert_close(torch.stack(network.predictions(x[:, : max(lengths)])), logits, rtol=1e-4, atol=1e-5)
    for row, length in enumerate(lengths):
        alone = torch.stack(network.predictions(x[row : row + 1, :length]))
        torch.testing.assert_close(alone[:, 0], logits[:, row], rtol=1e-4, atol=1e-5)
    state["stem.tokens.weight"][0] = 7.0
    torch.testing.assert_close(torch.stack(staged_network(spec, state).predictions(x)), logits)
    other = x.clone()
    other[0, 0] = other[0, 0] % 10 + 1
    assert not torch.allclose(network(other)[0], logits[-1, 0], atol=1e-4)


@pytest.mark.parametrize("name", ["text", "tied"])
def test_an_empty_text_is_finite(name: str) -> None:
    spec = spec_named(name)
    network = loaded(build(spec), state_for(spec))
    logits = network(torch.zeros(2, 9, dtype=torch.int64))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_the_order_of_words_matters() -> None:
    spec = spec_named("text")
    network, x = loaded(build(spec), state_for(spec)), drawn(spec, 4)[1:]
    assert not torch.allclose(network(x), network(x.flip(1)), atol=1e-3)


@pytest.mark.parametrize("exits", ["last", "plain", "shared"])
def test_a_tied_classifier_has_no_weight_of_its_own(exits: str) -> None:
    """Rows of the embedding from `vocabulary - classes` on are the classes; what is before is no answer."""
    spec = spec_named("tied", exits=exits, norm="none")
    state, x = state_for(spec), drawn(spec, 4)
    assert [name for name in state if "classifier" in name and not name.endswith("bias")] == []
    network = staged_network(spec, state)
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


@pytest.mark.parametrize(
    ("sides", "patch"), [((4, 4), 2), ((8, 8), 2), ((28, 28), 4), ((32, 32), 4), ((64, 80), 8), ((224, 224), 16)]
)
def test_patches_go_with_the_size(sides: tuple[int, int], patch: int) -> None:
    assert patch_of(sides) == patch
    spec = completed(NetworkSpec("vit", (1, *sides), 3))
    assert layout(spec).axes["position"].size == (sides[0] // patch) * (sides[1] // patch)


def test_patches_see_every_pixel_once() -> None:
    """9 rows are five rows of patches, the last of them half empty."""
    spec = spec_named("vit", norm="none")
    stem = loaded(build(spec), state_for(spec)).get_submodule("stem")
    x = drawn(spec, 1)
    before = stem(x).x_NTC
    for row in range(9):
        for column in range(8):
            other = x.clone()
            other[0, 1, row, column] += 1.0
            changed = (stem(other).x_NTC != before).any(2)[0].nonzero().flatten().tolist()
            assert changed == [row // 2 * 4 + column // 2]
