"""The coordinates on which updates of unlike parts are compared."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.algebra.submodel import Submodel, flatten, split
from strategies.clustering.coordinates import Sample, choose
from tests.strategies.clustering.comparing import LAYOUT, part_of, updates_of


def scattered(part: Submodel, difference: torch.Tensor) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """An update in its places in the flat state, and which places those are, by the average's own route: gather."""
    places = split(torch.arange(float(LAYOUT.parameters)), {n: t.shape for n, t in LAYOUT.tensors.items()})
    where = flatten(part.gather(places)).long().numpy()
    values, held = np.zeros(LAYOUT.parameters, np.float32), np.zeros(LAYOUT.parameters, bool)
    values[where], held[where] = difference.numpy(), True
    return values, held


PARTS = [
    part_of(),
    part_of(rate=Fraction(1, 2)),
    part_of(rate=Fraction(1, 4), shift=10),
    part_of(rate=Fraction(1, 2), units=(("hidden1", (1, 4, 5, 11)), ("hidden2", (0, 7)))),
]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 3), st.integers(0, 10**6), st.integers(1, 300))
def test_a_sample_reads_what_stands_in_the_state(which: int, seed: int, size: int) -> None:
    draws = np.random.default_rng(seed)
    places = np.sort(draws.choice(LAYOUT.parameters, size, replace=False))
    difference = torch.from_numpy(draws.normal(size=PARTS[which].numel).astype(np.float32))
    values, held = Sample(LAYOUT, places).read(PARTS[which], difference)
    expected, there = scattered(PARTS[which], difference)
    assert np.array_equal(values, expected[places])
    assert np.array_equal(held, there[places])


def test_nested_parts_are_compared_on_the_smallest_and_draws_on_everything() -> None:
    draws = np.random.default_rng(0)
    nested = [part_of(rate=Fraction(1, n)) for n in (4, 1, 2)]
    _, smallest = scattered(nested[0], torch.zeros(nested[0].numel))
    assert np.array_equal(choose(LAYOUT, nested, 10**6, draws).places, np.flatnonzero(smallest))
    few = choose(LAYOUT, nested, 20, draws).places
    assert len(few) == 20
    assert set(few) <= set(np.flatnonzero(smallest))
    drawn = [part_of(units=(("hidden1", tuple(range(i, i + 3))), ("hidden2", (i, i + 1)))) for i in (0, 3, 6)]
    assert len(choose(LAYOUT, drawn, 10**6, draws).places) == LAYOUT.parameters
    assert len(choose(LAYOUT, drawn, 50, draws).places) == 50


def test_a_sample_s_cosines_are_near_the_exact_ones() -> None:
    draws = np.random.default_rng(1)
    shared = draws.normal(size=20_000)
    exact = np.stack([shared + draws.normal(size=20_000) for _ in range(4)])
    sampled = exact[:, draws.choice(20_000, 4096, replace=False)]
    assert np.abs(updates_of(exact).cosines() - updates_of(sampled).cosines()).max() < 4 / np.sqrt(4096)
