"""Every draw is keyed by (seed, round, node, purpose), and no global generator is read or moved."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from models import NetworkSpec, Plan, build, build_part, completed, generator, initial_state, layout, torch_generator
from models.networks.registry import NETWORKS
from tests.models.inputs import kind_of

SPECS = [completed(NetworkSpec(name=name, classes=10, **kind_of(name))) for name in NETWORKS]  # type: ignore[arg-type]


def test_golden_values() -> None:
    """Another NumPy, another hash or another byte order must not change a run."""
    assert generator(0, 1, 2, "units").integers(0, 10**9, 4).tolist() == [162991272, 471036433, 731462058, 508095585]
    assert generator(2**40, 999, "räuber", "select").random(2).tolist() == [0.9047703871666704, 0.9966436115400739]
    assert torch.rand(2, generator=torch_generator(0, 1, 2, "batches")).tolist() == [
        0.92001873254776,
        0.1909404993057251,
    ]
    assert torch.randperm(8, generator=torch_generator(7, 3, "server", "batches")).tolist() == [3, 4, 2, 0, 7, 6, 5, 1]


def test_every_part_of_the_key_counts() -> None:
    keys: list[tuple[int, int, int | str, str]] = [
        (s, r, n, p) for s in (0, 1) for r in (0, 1) for n in (0, 1, "a") for p in ("x", "y")
    ]
    keys += [(0, 11, 1, "x"), (0, 1, 11, "x"), (1, 1, 1, "1x"), (1, 1, 11, "x")]  # joined, they would be alike
    numpy_draws = {generator(*key).integers(2**63) for key in keys}
    torch_draws = {int(torch.randint(2**62, (1,), generator=torch_generator(*key))) for key in keys}
    assert len(numpy_draws) == len(torch_draws) == len(keys)


def test_a_draw_does_not_depend_on_those_before() -> None:
    alone = generator(5, 2, 900, "units").permutation(50).tolist()
    for node in range(1200):
        generator(5, 2, node, "units").random(3)
    assert generator(5, 2, 900, "units").permutation(50).tolist() == alone


def _global_state() -> tuple[object, ...]:
    numpy_state = np.random.get_state(legacy=True)  # noqa: NPY002
    return torch.get_rng_state().tolist(), random.getstate(), numpy_state[1].tolist(), numpy_state[2:]  # type: ignore[index]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@pytest.mark.parametrize(
    "work",
    [
        lambda spec: initial_state(spec, torch_generator(0, 0, "server", "initial")),
        build,
        lambda spec: build_part(spec, Plan(Fraction(1, 4))),
        lambda spec: layout.__wrapped__(spec),
    ],
    ids=["initial_state", "build", "build_part", "layout"],
)
def test_no_global_generator_is_touched(spec: NetworkSpec, work: Callable[[NetworkSpec], object]) -> None:
    before = _global_state()
    work(spec)
    assert _global_state() == before


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_initial_state_is_a_function_of_its_generator(spec: NetworkSpec) -> None:
    torch.manual_seed(1)
    one = initial_state(spec, torch_generator(3, 0, "server", "initial"))
    torch.manual_seed(2)
    same, other = (initial_state(spec, torch_generator(seed, 0, "server", "initial")) for seed in (3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_initial_weights_fill_their_bounds(spec: NetworkSpec) -> None:
    modules = build(spec).named_modules()
    embeddings = {f"{path}.weight" for path, module in modules if isinstance(module, nn.Embedding)}
    for name, tensor in initial_state(spec, torch_generator(0, 0, "server", "initial")).items():
        if name in embeddings:
            deviation = 1.0 if spec.name == "vit" else 0.02
            assert abs(tensor.mean()) < 0.25 * deviation, name
            assert tensor.std().item() == pytest.approx(deviation, rel=0.1), name
        elif tensor.ndim > 1:
            bound = tensor[0].numel() ** -0.5
            assert 0.97 * bound < tensor.abs().max() <= bound, name
            assert abs(tensor.mean()) < 0.1 * bound, name
            assert tensor.std().item() == pytest.approx(bound / 3**0.5, rel=0.1), name
        elif ".norm" in name or name.startswith("norm"):
            assert torch.equal(tensor, torch.full_like(tensor, name.endswith("weight"))), name
