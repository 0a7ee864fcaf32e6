"""Transformers cut in depth, with layers left out, and with parts of a size's own."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from models import (
    Plan,
    build,
    build_part,
    layout,
    submodel,
)
from models.predictions import predictions
from tests.models.inputs import drawn
from tests.models.networks.transformers import SPECS, first_state, spec_named, staged_network, state_for
from tests.models.parts import loaded


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("exits", ["plain", "shared"])
def test_a_depth_is_the_first_layers_and_their_exit(name: str, exits: str) -> None:
    spec = spec_named(name, exits=exits)
    state, x = state_for(spec), drawn(spec, 4)
    full = staged_network(spec, state)
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
    spec = spec_named(name, step_sizes=True)
    state, x, plan = state_for(spec), drawn(spec, 4), Plan(dropped=(2,))
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
    spec = spec_named(name, exits=exits, private=("stage",), variants=tuple(plan.to_json() for plan in variants))
    for number, plan in enumerate(variants):
        blocks = submodel(spec, plan)
        own = {key for key, block in blocks.items() if block.source != key}
        assert own == {key for key in blocks if plan.depth and key.startswith(f"stages.{number}.")}
        loaded(build_part(spec, plan), blocks.gather(first_state(spec)))


@pytest.mark.parametrize("name", ["text", "vit"])
def test_norms_can_be_private(name: str) -> None:
    variants = (Plan(Fraction(1, 2)), Plan())
    spec = spec_named(name, private=("norm",), variants=tuple(plan.to_json() for plan in variants))
    for plan in variants:
        part = submodel(spec, plan)
        assert sum(block.source != key for key, block in part.items()) == 14  # two tensors of seven norms
        loaded(build_part(spec, plan), part.gather(first_state(spec)))
