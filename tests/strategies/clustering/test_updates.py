"""Norms and cosines of updates over the coordinates that two nodes share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.codecs import NOTHING, CodecSettings, codec_of
from strategies.clustering.split import SplitRule, judge
from strategies.clustering.updates import cosines_with
from tests.strategies.clustering.comparing import updates_of


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 6), st.integers(1, 9000), st.integers(0, 10**6), st.booleans())
def test_norms_and_cosines_are_a_plain_loop_s(count: int, size: int, seed: int, whole: bool) -> None:
    draws = np.random.default_rng(seed)
    held = np.ones((count, size), bool) if whole else draws.random((count, size)) < 0.7
    values = np.where(held, draws.normal(size=(count, size)), 0).astype(np.float32)
    weights = draws.uniform(1, 9, count)
    updates = updates_of(values, held=None if whole else held, weights=weights)
    cosines, norms = updates.cosines(), updates.norms()
    wide = values.astype(float)
    for i in range(count):
        mine = wide[i][held[i]]
        assert norms[i] == pytest.approx(np.sqrt(np.mean(mine**2)) if len(mine) else 0)
        others = cosines_with(values, updates.held, values[i], held[i])
        for j in range(count):
            both = held[i] & held[j]
            a, b = wide[i][both], wide[j][both]
            few = both.sum() < min(1024, held[i].sum() / 2, held[j].sum() / 2)
            if few or not a.any() or not b.any():
                assert np.isnan(cosines[i, j])
                assert np.isnan(others[j])
            else:
                assert cosines[i, j] == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)), abs=1e-9)
                assert others[j] == pytest.approx(cosines[i, j], abs=1e-9)
    held_weights = weights @ held
    some = held_weights > 0
    mean = (weights @ wide)[some] / held_weights[some]
    assert updates.mean_norm() == pytest.approx(np.sqrt(np.mean(mean**2)) if some.any() else 0)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6))
def test_cosines_know_neither_a_shared_rotation_nor_anybody_s_scale(seed: int) -> None:
    draws = np.random.default_rng(seed)
    values = draws.normal(size=(5, 30))
    plain = updates_of(values).cosines()
    permuted = updates_of(values[:, draws.permutation(30)]).cosines()
    turned = updates_of(values @ np.linalg.qr(draws.normal(size=(30, 30)))[0]).cosines()
    scaled = updates_of(values * draws.uniform(0.01, 100, (5, 1))).cosines()
    for other in (permuted, turned, scaled):
        assert np.allclose(plain, other, atol=1e-5)


@pytest.mark.parametrize("levels", [1, 7])
def test_a_quantiser_s_noise_changes_neither_norms_nor_cosines(levels: int) -> None:
    """Two opposed groups of three: as they arrive, quantised updates look longer, and all but orthogonal."""
    draws, size = np.random.default_rng(3), 40_000
    pull = draws.normal(size=size)
    exact = np.stack([(-1) ** (i % 2) * pull + draws.normal(size=size) for i in range(6)]).astype(np.float32)
    codec = codec_of(CodecSettings("qsgd", levels=levels))
    quantised = np.stack(
        [
            codec.decode(codec.encode(torch.from_numpy(row), [size], draws, NOTHING), [size], NOTHING).flat.numpy()
            for row in exact
        ]
    )
    true, raw = updates_of(exact), updates_of(quantised)
    found = replace(raw, shares=true.norms() / raw.norms())
    apart = ~np.eye(6, dtype=bool)
    np.testing.assert_allclose(found.cosines()[apart], true.cosines()[apart], atol=0.3 if levels == 1 else 0.05)
    assert abs(found.cosines()[apart] - true.cosines()[apart]).mean() < 0.15
    assert abs(raw.cosines()[apart]).max() < 0.75 * abs(true.cosines()[apart]).min()
    np.testing.assert_allclose(found.norms(), true.norms(), rtol=1e-6)
    assert found.mean_norm() == pytest.approx(true.mean_norm(), rel=0.15)
    assert raw.mean_norm() > 1.1 * true.mean_norm()
    verdict = judge(found, SplitRule(mean_norm=9.0, largest_norm=0.0, gamma=0.72), 1.0)
    assert verdict.cut is not None
    assert sorted(map(sorted, verdict.cut.groups)) == [[0, 2, 4], [1, 3, 5]]
    assert verdict.accepted
