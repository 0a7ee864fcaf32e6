"""Masks by magnitude: what the threshold keeps, ties, nesting, and that a state gives one mask wherever it is."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import ceil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models import NetworkSpec, PartialAverage, Plan, completed, flatten, initial_state, layout, submodel
from models.randomness import torch_generator
from models.variants.importance import competing_tensors, masked, threshold
from tests.models.generators import bits

KEEPS = tuple(Fraction(text) for text in ("1/64", "1/10", "1/3", "1/2", "2/3", "63/64"))
SPECS = {
    "mlp": completed(NetworkSpec("mlp", (1, 8, 8), 10, widths=(40, 24))),
    "cnn": completed(NetworkSpec("cnn", (3, 8, 8), 7, widths=(6, 9, 10, 13))),
    "resnet-post": completed(NetworkSpec("resnet-post", (3, 8, 8), 7, widths=(6, 9), blocks=(2, 1), step_sizes=True)),
    "per-width": completed(NetworkSpec("resnet", (3, 8, 8), 7, widths=(6, 9), blocks=(2, 1), norm="batch-per-width")),
}
EACH = pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))


def state_of(spec: NetworkSpec, seed: int, *, levels: int = 0) -> dict[str, Tensor]:
    """Normal values; with `levels` only so many magnitudes, so that many are equal."""
    draws = torch.Generator().manual_seed(seed)
    state = {name: torch.randn(t.shape, generator=draws) for name, t in layout(spec).tensors.items()}
    if levels:
        return {name: torch.round(tensor * levels) / levels for name, tensor in state.items()}
    return state


def magnitudes(spec: NetworkSpec, state: dict[str, Tensor]) -> list[float]:
    """Of everything but norms and step sizes, largest first, told by the names that these networks have."""
    other = ("norm", "step")
    return sorted(
        (
            abs(value)
            for name in state
            if not any(part.startswith(other) for part in name.split("."))
            for value in state[name].flatten().tolist()
        ),
        reverse=True,
    )


@EACH
@pytest.mark.parametrize("levels", [0, 3, 20])
@pytest.mark.parametrize("keep", KEEPS)
def test_the_threshold_is_the_kth_largest_magnitude(spec: NetworkSpec, levels: int, keep: Fraction) -> None:
    """Among more than a thousand, with and without ties."""
    state = state_of(spec, 1, levels=levels)
    expected = magnitudes(spec, state)
    assert len(expected) > 1000
    assert len(set(expected)) < len(expected) if levels else len(set(expected)) > 0.99 * len(expected)
    assert threshold(state, layout(spec), keep) == expected[ceil(keep * len(expected)) - 1]


@EACH
@pytest.mark.parametrize("levels", [0, 3])
@pytest.mark.parametrize("keep", KEEPS)
def test_what_reaches_the_threshold_counts_and_norms_always_do(spec: NetworkSpec, levels: int, keep: Fraction) -> None:
    state, declared = state_of(spec, 2, levels=levels), layout(spec)
    part, least = masked(submodel(spec, Plan()), state, declared, keep), threshold(state, declared, keep)
    kept = 0
    for name, block in part.items():
        if declared.tensors[name].role or declared.tensors[name].buffer:
            assert block.mask is None
        else:
            assert block.mask is not None
            assert torch.equal(block.mask, state[name].abs() >= least)  # ties are all kept
            kept += int(block.mask.sum())
    count = sum(state[name].numel() for name in competing_tensors(declared))
    assert kept >= ceil(keep * count)
    assert levels or kept == ceil(keep * count)


def test_norms_steps_and_statistics_do_not_compete() -> None:
    roles = {name: tensor.role for name, tensor in layout(SPECS["resnet-post"]).tensors.items()}
    assert "step" in roles.values()
    left = set(roles) - set(competing_tensors(layout(SPECS["resnet-post"])))
    assert left == {name for name, role in roles.items() if role}
    buffers = {name for name, tensor in layout(SPECS["per-width"]).tensors.items() if tensor.buffer}
    assert buffers
    assert not buffers & set(competing_tensors(layout(SPECS["per-width"])))


@given(st.sampled_from(sorted(SPECS)), st.sampled_from(KEEPS), st.sampled_from((0, 2, 8)), st.integers(0, 99))
def test_a_masked_state_has_the_same_mask(name: str, keep: Fraction, levels: int, seed: int) -> None:
    """So it does not matter whether the mask is made before a state is sent or after."""
    spec = SPECS[name]
    state = state_of(spec, seed, levels=levels)
    whole = submodel(spec, Plan())
    part = masked(whole, state, layout(spec), keep)
    sent = part.gather(state)
    again = masked(whole, sent, layout(spec), keep)
    assert threshold(sent, layout(spec), keep) == threshold(state, layout(spec), keep)
    for key, block in part.items():
        mask = again[key].mask
        assert (mask is None) == (block.mask is None)
        assert mask is None or torch.equal(mask, block.mask if block.mask is not None else torch.ones(()))
        assert torch.equal(again[key].gather(sent[key]), sent[key])


@given(st.sampled_from(sorted(SPECS)), st.sampled_from(KEEPS), st.sampled_from(KEEPS), st.integers(0, 99))
def test_smaller_shares_are_parts_of_larger_ones(name: str, one: Fraction, other: Fraction, seed: int) -> None:
    spec = SPECS[name]
    state = state_of(spec, seed, levels=5)
    few, many = (masked(submodel(spec, Plan()), state, layout(spec), keep) for keep in sorted((one, other)))
    for key, block in few.items():
        wide = many[key].mask
        assert block.mask is None or (wide is not None and not (block.mask & ~wide).any())


@EACH
def test_what_is_kept_keeps_its_bits_and_the_rest_is_zero(spec: NetworkSpec) -> None:
    state = state_of(spec, 3)
    for name, block in masked(submodel(spec, Plan()), state, layout(spec), Fraction(1, 3)).items():
        held = block.gather(state[name])
        mask = torch.ones_like(held, dtype=torch.bool) if block.mask is None else block.mask
        assert bits(held[mask]) == bits(state[name][mask])
        assert not held[~mask].any()


@EACH
def test_a_narrow_part_has_the_mask_of_the_whole(spec: NetworkSpec) -> None:
    """The threshold is the network's, not the part's."""
    state, narrow = state_of(spec, 4), Plan(Fraction(1))
    if spec.norm != "batch-per-width":
        narrow = Plan(Fraction(1, 2))
    whole = masked(submodel(spec, Plan()), state, layout(spec), Fraction(1, 4))
    for block in masked(submodel(spec, narrow), state, layout(spec), Fraction(1, 4)).values():
        mask = whole[block.source].mask
        if mask is not None:
            assert block.mask is not None
            assert torch.equal(block.mask, replace(block, mask=None).gather(mask))


@EACH
def test_everything_is_kept_of_equal_magnitudes_and_by_a_share_of_one(spec: NetworkSpec) -> None:
    whole = submodel(spec, Plan())
    assert masked(whole, state_of(spec, 5), layout(spec), Fraction(1)) is whole
    for value in (0.0, -0.5):
        state = {name: torch.full(tensor.shape, value) for name, tensor in layout(spec).tensors.items()}
        part = masked(whole, state, layout(spec), Fraction(1, 64))
        assert all(block.mask is None or block.mask.all() for block in part.values())


def test_the_state_is_only_looked_at() -> None:
    spec = SPECS["mlp"]
    state = initial_state(spec, torch_generator(1, 0, "server", "initial state"))
    before = {name: bits(tensor) for name, tensor in state.items()}
    masked(submodel(spec, Plan()), state, layout(spec), Fraction(1, 2))
    assert {name: bits(tensor) for name, tensor in state.items()} == before
    alone = completed(NetworkSpec("mlp", (1, 8, 8), 10, widths=(40,), norm="none"))
    tensors = {"one": state_of(alone, 1)[competing_tensors(layout(alone))[0]]}  # nothing to put together
    kept = bits(tensors["one"])
    single = replace(layout(alone), tensors={"one": layout(alone).tensors[competing_tensors(layout(alone))[0]]})
    threshold(tensors, single, Fraction(1, 2))
    assert bits(tensors["one"]) == kept


def test_an_average_forgets_masks_with_the_round() -> None:
    """Masks are as large as the state and belong to one round."""
    spec = SPECS["mlp"]
    average, state = PartialAverage(layout(spec), per_coordinate=True), state_of(spec, 6)
    part = masked(submodel(spec, Plan()), state, layout(spec), Fraction(1, 2))
    average.add(part, flatten(part.gather(state)))
    average.add(submodel(spec, Plan(Fraction(1, 2))), torch.zeros(submodel(spec, Plan(Fraction(1, 2))).numel))
    assert len(average._placements) == 2
    average.reset()
    assert len(average._placements) == 1
