"""The invariants of the stochastic quantiser: unbiased, inside its variance bound, nothing lost on the wire."""

from __future__ import annotations

from math import ceil, log2, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.randomness import generator
from protocol.codecs import NOTHING, CodecSettings, codec_of
from protocol.codecs.frame import HEADER
from protocol.codecs.layout import layout_of
from protocol.codecs.quantiser import dequantise, norms, quantise
from tests.protocol.cases import SIZES, SMALL, Kept, difference, draws


def drawn(x: Tensor, levels: int, seed: int = 0, norm: str = "l2", block: int = 0) -> Tensor:
    """Q(x) of one vector, as one group or in blocks."""
    layout = layout_of([len(x)], 0, "block" if block else "whole", block)
    scales = norms(x, layout, norm)
    return dequantise(quantise(x, scales, layout, levels, draws(seed)), scales, layout, levels)


def transcribed(x: Tensor, levels: int, uniform: np.ndarray, norm: str = "l2") -> np.ndarray:
    """The papers' rule for one group, coordinate by coordinate, with these random numbers.

    They draw for magnitudes and we for signed values, so for a negative one the number counts from the other end.
    """
    values = x.numpy()
    size = np.float32(np.linalg.norm(values.astype(np.float64)) if norm == "l2" else np.abs(values).max())
    out = np.zeros_like(values)
    if size == 0:
        return out
    for i, value in enumerate(values):
        a = np.abs(value) * (np.float32(levels) / size)
        low = np.floor(a)
        more = uniform[i] < a - low if value >= 0 else uniform[i] >= np.float32(1) - (a - low) and a > low
        level = min(low + np.float32(more), np.float32(levels))
        out[i] = np.sign(value) * level * (size / np.float32(levels))
    return out


def many(x: Tensor, levels: int, count: int, norm: str = "l2") -> Tensor:
    """Draws of Q(x), one in each row, with random numbers of one stream."""
    layout = layout_of([len(x) * count], 0, "block", len(x))
    repeated = x.repeat(count)
    scales = norms(repeated, layout, norm)
    return dequantise(quantise(repeated, scales, layout, levels, draws(5)), scales, layout, levels).view(count, -1)


def variances(x: Tensor, levels: int, norm: str = "l2") -> Tensor:
    """Closed form, per coordinate: (‖x‖/s)² f(1 - f)."""
    exact = x.double()
    size = exact.norm() if norm == "l2" else exact.abs().max()
    a = exact.abs() / size * levels
    f = a - a.floor()
    return (size / levels) ** 2 * f * (1 - f)


@pytest.mark.parametrize("norm", ["l2", "max"])
@pytest.mark.parametrize("levels", [1, 4, 7, 127])
def test_unbiased_within_four_standard_errors(levels: int, norm: str) -> None:
    x, count = difference([50], 3), 20_000
    mean = many(x, levels, count, norm).double().mean(0)
    errors = (variances(x, levels, norm) / count).sqrt()
    assert bool(((mean - x).abs() <= 4 * errors + 1e-6 * x.norm()).all())


@pytest.mark.parametrize(("p", "levels"), [(50, 1), (50, 4), (50, 7), (2000, 1), (2000, 16), (2000, 255)])
def test_the_variance_is_the_closed_form_and_inside_the_bound(p: int, levels: int) -> None:
    x, count = difference([p], 1), 4000 if p == 50 else 300
    spread = (many(x, levels, count).double() - x).square().sum(1).mean() / x.double().square().sum()
    bound = min(p / levels**2, sqrt(p) / levels)
    closed = variances(x, levels).sum() / x.double().square().sum()
    assert spread <= bound
    assert float(spread) == pytest.approx(float(closed), rel=0.05)


@pytest.mark.parametrize("levels", [1, 7])
def test_the_variance_under_the_largest_norm(levels: int) -> None:
    x = difference([200], 2)
    spread = (many(x, levels, 2000, "max").double() - x).square().sum(1).mean()
    assert float(spread) == pytest.approx(float(variances(x, levels, "max").sum()), rel=0.05)
    assert spread <= len(x) / (4 * levels**2) * x.double().abs().max() ** 2


@pytest.mark.parametrize(("p", "levels"), [(50, 1), (2000, 1), (2000, 4)])
def test_nonzeros_are_as_few_as_the_lemma_says(p: int, levels: int) -> None:
    rows = many(difference([p], 4), levels, 1000)
    assert (rows != 0).sum(1).double().mean() <= levels * (levels + sqrt(p))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(0, 99),
    st.sampled_from([1, 2, 3, 7, 8, 100, 255, 256]),
    st.sampled_from(["l2", "max"]),
    st.integers(-40, 40),
)
def test_zero_sign_scale_and_range(p: int, seed: int, levels: int, norm: str, power: int) -> None:
    x = difference([p], seed)
    q = drawn(x, levels, seed, norm)
    assert not drawn(torch.zeros(p), levels, seed, norm).any()
    assert torch.equal(drawn(x * 2.0**power, levels, seed, norm), q * 2.0**power)
    assert bool((q * x >= 0).all())
    assert float(q.abs().max()) <= float(x.double().norm()) * (1 + 1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(0, 99), st.sampled_from([1, 2, 3, 7, 8, 100]), st.sampled_from(["l2", "max"]))
def test_the_papers_rule(p: int, seed: int, levels: int, norm: str) -> None:
    x = difference([p], seed)
    wanted = transcribed(x, levels, draws(seed).random(p, dtype=np.float32), norm)
    np.testing.assert_allclose(drawn(x, levels, seed, norm).numpy(), wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("levels", "entropy"),
    [
        (levels, entropy)
        for entropy in ("fixed", "elias", "range")
        for levels in (1, 2, 4, 7, 8, 16, 127, 128, 255, 256, 2**12, 2**20, 2**22)
        if entropy != "range" or levels <= 2**12
    ],
)
def test_the_top_level_can_be_written(levels: int, entropy: str) -> None:
    """FedLab's 2^n needs n + 1 bits and gets n; here ±s arrive."""
    x = torch.zeros(1500)
    x[3], x[700] = 2.5, -2.5
    codec = codec_of(CodecSettings("qsgd", levels=levels, norm="max", scale="whole", entropy=entropy, small=0))
    array = codec.encode(x, [1500], draws(), Kept())
    np.testing.assert_allclose(codec.decode(array, [1500], Kept()).flat.numpy(), x.numpy(), rtol=1e-6)


@pytest.mark.parametrize(("pattern", "levels"), [((3.0, 4.0), 5), ((3.0, -4.0, 12.0), 13), ((0.0, -1.0, 0.0), 8)])
def test_what_lies_on_the_grid_stays(pattern: tuple[float, ...], levels: int) -> None:
    x = torch.tensor(pattern) * 2.0**-9
    for seed in range(20):
        np.testing.assert_allclose(drawn(x, levels, seed).numpy(), x.numpy(), rtol=1e-7)


@pytest.mark.parametrize("scale", ["whole", "tensor", "block"])
@pytest.mark.parametrize("levels", [1, 2, 3, 7, 8, 100, 127, 128, 2**16])
def test_the_payload_is_as_long_as_the_formula(scale: str, levels: int) -> None:
    codec = codec_of(CodecSettings("qsgd", levels=levels, scale=scale, block=96, small=SMALL))
    large = [size for size in SIZES if size >= SMALL]
    groups = {"whole": 1, "tensor": len(large), "block": sum(ceil(size / 96) for size in large)}[scale]
    small, bits = sum(SIZES) - sum(large), ceil(log2(levels + 1)) + 1
    array = codec.encode(difference(), SIZES, draws(), Kept())
    assert array.shape == (HEADER + 4 * small + 4 * groups + ceil(sum(large) * bits / 8),)


@pytest.mark.parametrize("scale", ["whole", "tensor", "block"])
@pytest.mark.parametrize("entropy", ["fixed", "elias", "range"])
def test_decoding_gives_what_was_drawn(scale: str, entropy: str) -> None:
    """Whatever shares a scale and however levels are written: group by group the papers' rule."""
    codec = codec_of(CodecSettings("qsgd", levels=6, scale=scale, block=96, entropy=entropy, small=SMALL))
    x = difference()
    flat = codec.decode(codec.encode(x, SIZES, draws(9), Kept()), SIZES, Kept()).flat
    pieces = list(zip(torch.split(x, list(SIZES)), torch.split(flat, list(SIZES)), strict=True))
    assert all(torch.equal(a, b) for a, b in pieces if len(a) < SMALL)
    large, got = (torch.cat(side) for side in zip(*(pair for pair in pieces if len(pair[0]) >= SMALL), strict=True))
    lengths = [size for size in SIZES if size >= SMALL]
    cut = {
        "whole": [sum(lengths)],
        "tensor": lengths,
        "block": [min(96, size - at) for size in lengths for at in range(0, size, 96)],
    }[scale]
    uniform = np.split(draws(9).random(len(large), dtype=np.float32), np.cumsum(cut)[:-1])
    wanted = np.concatenate([transcribed(a, 6, u) for a, u in zip(torch.split(large, cut), uniform, strict=True)])
    np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-6, atol=0)


def test_errors_of_independent_clients_shrink_with_their_number() -> None:
    """The variance of the mean of r clients is 1/r of one's; with one generator for all it would stay."""
    x, sizes = difference([3000], 8), [3000]
    codec = codec_of(CodecSettings("qsgd", levels=2))

    def error(nodes: list[int]) -> float:
        got = [codec.decode(codec.encode(x, sizes, generator(1, 4, n, "codec"), Kept()), sizes, Kept()) for n in nodes]
        return float((torch.stack([d.flat for d in got]).mean(0) - x).square().sum())

    one = np.mean([error([node]) for node in range(32)])
    assert error(list(range(32))) == pytest.approx(one / 32, rel=0.1)
    assert error([7] * 32) == pytest.approx(one, rel=0.1)


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-22, 1e18, 1e30])
def test_extreme_norms_stay_finite(scale: float) -> None:
    """Squares of these underflow or overflow in float32; a norm below 1e-30 is sent as zeros."""
    x = torch.randn(1500, generator=torch.Generator().manual_seed(1)) * scale
    q = drawn(x, 7, norm="l2", block=64)
    assert bool(q.isfinite().all())
    if scale >= 1e-28:
        exact = x[:64].double()
        assert float((many(x[:64], 255, 200).double().mean(0) - exact).norm()) < 0.02 * float(exact.norm())
    if scale < 1e-32:
        assert not q.any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 3e38])
@pytest.mark.parametrize("name", ["float16", "qsgd", "topk", "ef21"])
def test_what_is_not_finite_is_not_sent(name: str, bad: float) -> None:
    x, memory = difference(), Kept()
    x[20:60] = bad
    if bad == 3e38 and name in ("topk", "ef21"):
        return  # can be sent as it is; the server's guard refuses it
    with pytest.raises(ValueError, match="finite"):
        codec_of(CodecSettings(name, small=SMALL)).encode(x, SIZES, draws(), memory)
    assert not memory.vectors


# ---- as a contraction ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["l2", "max"])
@pytest.mark.parametrize("levels", [1, 3, 7, 127])
@pytest.mark.parametrize(("scale", "block"), [("block", 512), ("block", 64), ("tensor", 512), ("whole", 512)])
def test_contracted_it_is_nearer_than_nothing(norm: str, levels: int, scale: str, block: int) -> None:
    """E‖C(x) - x‖² ≤ ω/(1 + ω) ‖x‖² with the ω of the largest group; unscaled it is longer than x where ω > 1."""
    codec = codec_of(CodecSettings("qsgd", levels=levels, norm=norm, scale=scale, block=block))
    sizes, random = [3000, 40, 1700], np.random.default_rng(4)
    x = torch.randn(sum(sizes), generator=torch.Generator().manual_seed(2))
    largest = {"block": block, "tensor": 3000, "whole": 4700}[scale]
    omega = min(largest / (4 * levels**2), largest**0.5 / levels)
    lost = []
    for _ in range(20):
        array = codec.encode(x, sizes, random, NOTHING)
        found = codec.contracted(array, sizes)
        assert torch.equal(found[3000:3040], x[3000:3040])  # small tensors are exact
        lost.append(float((found - x).square().sum() / x.square().sum()))
    assert np.mean(lost) <= omega / (1 + omega)


def test_what_is_left_out_comes_later_at_the_default_settings() -> None:
    """v ← v + C(x - v) comes to x; with the quantiser as it is, the error grows by a half every round."""
    codec, sizes, random = codec_of(CodecSettings("qsgd")), [20_000], np.random.default_rng(1)
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(3))
    errors = {}
    for name in ("contracted", "unbiased"):
        v = torch.zeros(20_000)
        for _ in range(30):
            array = codec.encode(x - v, sizes, random, NOTHING)
            v += codec.contracted(array, sizes) if name == "contracted" else codec.decode(array, sizes, NOTHING).flat
        errors[name] = float((x - v).norm() / x.norm())
    assert errors["contracted"] < 0.01
    assert errors["unbiased"] > 10


@pytest.mark.parametrize("name", ["float16", "bfloat16", "topk"])
def test_other_codecs_are_contractions_as_they_are(name: str) -> None:
    codec = codec_of(CodecSettings(name))
    x = torch.randn(3000, generator=torch.Generator().manual_seed(3))
    array = codec.encode(x, [3000], np.random.default_rng(1), NOTHING)
    assert torch.equal(codec.contracted(array, [3000]), codec.decode(array, [3000], NOTHING).flat)
