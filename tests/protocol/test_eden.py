"""EDEN below a bit: rotations are rotations, levels the rule's, means right, and bytes what the entropy allows."""

from __future__ import annotations

import struct
import zlib
from math import log2

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.randomness import generator
from protocol import WireError
from protocol.codecs import NOTHING, CodecSettings, codec_of, gaps
from protocol.codecs.dead_zone import SMALLEST_NORM, dead_zone, quantise
from protocol.codecs.frame import HEADER
from protocol.codecs.rotation import LARGEST, Rotation, blocks_of
from protocol.codecs.settings import LEAST_BITS, MOST_BITS
from tests.protocol.cases import SIZES, SMALL, difference, draws
from tests.protocol.fuzz import Target, npy, repair

BITS = (LEAST_BITS, 0.25, 0.52, 1.0, MOST_BITS)


def coded(x: Tensor, bits: float = 0.52, seed: int = 0, contract: bool = False) -> Tensor:
    """x as it arrives, as one tensor without small ones."""
    codec, sizes = codec_of(CodecSettings("eden", bits=bits, small=0)), [len(x)]
    array = codec.encode(x, sizes, draws(seed), NOTHING)
    return codec.contracted(array, sizes) if contract else codec.decode(array, sizes, NOTHING).flat


def normal(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def hadamard(rows: np.ndarray) -> np.ndarray:
    """The transform by passes of sums and differences (Yates), in float64."""
    out, step = rows.astype(np.float64), 1
    while step < out.shape[1]:
        pairs = out.reshape(len(out), -1, 2, step)
        out = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2).reshape(len(out), -1)
        step *= 2
    return out


@given(st.lists(st.integers(0, 20_000), max_size=6), st.integers(0, 3000))
@settings(max_examples=60, deadline=None)
def test_blocks_cover_every_large_tensor_once(sizes: list[int], small: int) -> None:
    blocks, at = blocks_of(sizes, small), 0
    left: list[int] = []
    for run in blocks.runs:
        assert 0 <= run.rows * run.width - (run.stop - run.start) < 64
        assert (run.at, run.first) == (at, len(left))
        at += run.rows * run.width
        left += [run.width] * run.rows
    assert left == blocks.widths.tolist()
    assert at == blocks.length
    covered = [i for run in blocks.runs for i in range(run.start, run.stop)]
    edges = np.concatenate([[0], np.cumsum(sizes, dtype=int)])
    wanted = [i for k, size in enumerate(sizes) if size >= small for i in range(edges[k], edges[k + 1])]
    assert covered == wanted


@pytest.mark.parametrize("width", [64, 128, 1024, 2048, LARGEST])
def test_the_transform_is_the_hadamard_matrix_after_signs_and_turns_back(width: int) -> None:
    x, blocks = normal(3 * LARGEST + width - 5), blocks_of([3 * LARGEST + width - 5], 0)
    rotation, out = Rotation(7, blocks), torch.zeros(3 * LARGEST + width - 5)
    sign = 1 - 2 * generator(7, 0, "codec", "signs of the rotation").integers(2, size=LARGEST, dtype=np.int8)
    for run in blocks.runs:
        rows, norms = rotation.there(x, run)
        before = np.zeros((run.rows, run.width))
        before.reshape(-1)[: run.stop - run.start] = x[run.start : run.stop]
        assert np.allclose(rows.numpy(), hadamard(before * sign[: run.width]), atol=1e-3)
        assert np.allclose(norms, np.linalg.norm(before, axis=1), rtol=1e-5)
        rotation.back(run, torch.from_numpy(1 / blocks.widths).float(), out)
    assert torch.allclose(out, x, atol=1e-5)


@pytest.mark.parametrize("bits", BITS)
def test_the_levels_are_the_rule(bits: float) -> None:
    rows, zone = normal(8 * 1024).view(8, 1024) * torch.logspace(-9, 9, 8)[:, None], dead_zone(bits)
    rows[3] = 0.0
    norms = rows.norm(dim=1) / 32
    levels = quantise(rows, norms, zone, torch.empty_like(rows))
    q = np.zeros(rows.numel())
    q[levels.positions] = 1 - 2.0 * levels.negative
    for row, norm, got, scale in zip(rows.double().numpy(), norms, q.reshape(8, -1), levels.scales, strict=True):
        wanted = np.where(np.abs(row) >= float(np.float32(zone.threshold) * norm), np.sign(row), 0) if norm else 0 * row
        assert np.array_equal(got, wanted)
        assert scale == pytest.approx(float(norm) ** 2 / max(1e-99, np.abs(row[wanted != 0]).sum()), rel=1e-5)


@pytest.mark.parametrize("bits", BITS)
def test_entropy_and_error_are_those_of_the_design(bits: float) -> None:
    x, codec, zone = normal(64 * LARGEST), codec_of(CodecSettings("eden", bits=bits, small=0)), dead_zone(bits)
    array = codec.encode(x, [len(x)], draws(), NOTHING)
    decoded = codec.decode(array, [len(x)], NOTHING)
    assert float((decoded.flat - x).square().sum() / x.square().sum()) == pytest.approx(
        zone.noise, rel=0.02 if bits > 0.1 else 0.1
    )
    of_levels = 8 * (decoded.entropy_bytes - 4 - 4 * 64) / len(x)
    assert of_levels == pytest.approx(bits, rel=0.02 if bits > 0.1 else 0.05)
    # Gaps are within some percent of what an ideal coder of single levels needs; the header of an array, and a table.
    assert len(array.data) < (1.02 if bits < 1 else 1.06) * decoded.entropy_bytes + HEADER + 300


def test_the_threshold_is_the_one_that_gives_the_entropy() -> None:
    for bits in BITS:
        z = normal(1_000_000, 3)
        p = float((z.abs() > dead_zone(bits).threshold).float().mean())
        assert p - p * log2(p) - (1 - p) * log2(1 - p) == pytest.approx(bits, rel=0.01)


def test_what_arrives_is_right_on_average() -> None:
    """Over keys, within standard errors: any sum of coordinates, and every coordinate, of unequal ones as well."""
    x = difference([900, 5000, 4096], 1)
    mean = torch.stack([coded(x, seed=seed) for seed in range(400)]).double().mean(0)
    off = (mean - x).square().sum() / x.double().square().sum()
    assert off < 1.2 * dead_zone(0.52).noise / 400
    assert float(mean @ x.double() / (x.double() @ x.double())) == pytest.approx(1, abs=1e-5)


def test_other_keys_are_other_errors() -> None:
    x = normal(4096)
    a, b = (coded(x, seed=seed) - x for seed in (1, 2))
    assert abs(float(torch.dot(a, b) / a.norm() / b.norm())) < 0.08


@given(st.integers(1, 9000), st.sampled_from(BITS), st.integers(0, 3), st.integers(0, 5))
@settings(max_examples=80, deadline=None)
def test_laws_of_one_draw(count: int, bits: float, seed: int, kind: int) -> None:
    """⟨x, x̂⟩ = ‖x‖²; never shorter; the contracted one is nearer than zero; a factor is a factor; whatever x is."""
    x = normal(count, seed)
    if kind == 1:
        x[x.abs() < 2] = 0
    elif kind == 2:
        x[1:] *= 1e-3
    elif kind == 3:
        x = x**5
    elif kind == 4:
        x[:] = 1.0
    elif kind == 5:
        x[:] = 0.0
    got = coded(x, bits, seed)
    square = float(x.double().square().sum())
    assert float(got.double() @ x.double()) == pytest.approx(square, rel=1e-4, abs=1e-12)
    assert float(got.double().square().sum()) >= square * (1 - 1e-4)
    assert float((coded(x, bits, seed, contract=True) - x).double().square().sum()) <= square * (1 + 1e-6)
    assert torch.equal(coded(4 * x, bits, seed), 4 * got)


def test_one_coordinate_is_exact_and_costs_a_bit_each() -> None:
    x = torch.zeros(LARGEST)
    x[17] = -0.3
    assert torch.allclose(coded(x), x, atol=1e-7)


def test_tiny_blocks_are_zeros_and_large_ones_are_refused() -> None:
    assert not coded(normal(100) * SMALLEST_NORM / 100).any()
    assert coded(normal(100) * 1e-15).any()
    for wrong in (float("nan"), float("inf"), 1e30):
        x = normal(5000)
        x[4321] = wrong
        with pytest.raises(ValueError, match="not finite, or its square is too large"):
            coded(x)


@given(st.lists(st.tuples(st.integers(0, 400), st.booleans()), max_size=50), st.integers(0, 300), st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_gaps_are_read_as_they_were_written(signs: list[tuple[int, bool]], after: int, stretches: int) -> None:
    positions = np.cumsum([gap + 1 for gap, _ in signs], dtype=np.int64) - 1
    negative = np.array([sign for _, sign in signs], np.bool_)
    count = (int(positions[-1]) + 1 if signs else 0) + after
    writer = gaps.Writer()
    for some in np.array_split(np.arange(len(signs)), stretches):
        writer.add(positions[some], negative[some])
    data = np.frombuffer(writer.written(), np.uint8)
    least, most = gaps.bounds(count)
    assert least <= len(data) <= most
    got, signed = gaps.decode(data, count)
    assert np.array_equal(got, positions)
    assert np.array_equal(signed, negative)
    if signs and not after:
        with pytest.raises(WireError):
            gaps.decode(data, count - 1)


def deflated(symbols: bytes) -> np.ndarray:
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    return np.frombuffer(coder.compress(symbols) + coder.flush(), np.uint8)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (np.frombuffer(b"\xff" * 9, np.uint8), "Deflate"),
        (deflated(b"\x00\x00")[:-1], "not one of"),
        (np.concatenate([deflated(b"\x00"), np.zeros(3, np.uint8)]), "not one of"),
        (deflated(bytes(10**6)), "not one of"),  # a bomb: a thousand bytes for a million
        (deflated(b"\xff"), "nobody writes"),
        (deflated(b"\x00\xfe"), "nobody writes"),
        (deflated(b"\xfc" * 9), "beyond the last"),
    ],
)
def test_codes_that_nobody_writes(data: np.ndarray, word: str) -> None:
    with pytest.raises(WireError, match=word):
        gaps.decode(data, 500)


@pytest.mark.parametrize(
    ("value", "word"), [(-1.0, "scale"), (float("nan"), "scale"), (1e31, "scale"), (0.0, "no scale")]
)
def test_a_scale_that_is_none(value: float, word: str) -> None:
    target = Target(CodecSettings("eden", small=SMALL))
    frame = bytearray(target.frame)
    struct.pack_into("<f", frame, HEADER + 4 * 7 + 4, value)
    repair(frame)
    with pytest.raises(WireError, match=word):
        target.codec.decode(npy(bytes(frame)), (5, 130, 2, 101), NOTHING)


def test_the_span_holds() -> None:
    for seed in range(20):
        x, codec = difference(SIZES, seed), codec_of(CodecSettings("eden", small=SMALL))
        decoded = codec.decode(codec.encode(x, SIZES, draws(seed), NOTHING), SIZES, NOTHING)
        least, most = decoded.span
        assert least <= float(x.norm() / decoded.flat.norm()) <= most
