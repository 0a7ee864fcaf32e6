"""Levels and indices as bytes, without loss, and as long as they should be."""

from __future__ import annotations

from math import ceil, floor, log2

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.algebra.rates import share_of
from protocol import WireError
from protocol.codecs import elias, ranges
from protocol.codecs.bits import dtype_for, pack, packed_length, unpack
from protocol.codecs.levels import CODINGS, entropy_bytes, width
from protocol.codecs.sparse import indices_length, largest, read_indices, write_indices
from tests.protocol.cases import difference


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 32), st.integers(0, 70), st.integers(0, 2**32))
def test_packing_is_the_bits_in_order(bits: int, count: int, seed: int) -> None:
    numbers = np.random.default_rng(seed).integers(0, 2**bits, count).astype(dtype_for(bits))
    data = pack(numbers, bits)
    plain = "".join(f"{int(number):0{bits}b}"[::-1] for number in numbers)  # lowest bit first
    plain += "0" * (-len(plain) % 8)
    assert data.tobytes() == bytes(int(plain[i : i + 8][::-1], 2) for i in range(0, len(plain), 8))
    assert len(data) == packed_length(count, bits)
    assert np.array_equal(unpack(data, count, bits), numbers)


@pytest.mark.parametrize("bits", [1, 3, 4, 8, 11, 22])
def test_packing_beyond_one_chunk(bits: int) -> None:
    count = (1 << 17) + 13
    numbers = np.random.default_rng(bits).integers(0, 2**bits, count).astype(dtype_for(bits))
    assert np.array_equal(unpack(pack(numbers, bits), count, bits), numbers)


def test_bits_after_the_last_number_are_refused() -> None:
    data = pack(np.array([1, 2, 3], np.uint8), 3)
    with pytest.raises(WireError, match="after the last"):
        unpack(data | np.array([0, 128], np.uint8), 3, 3)


@pytest.mark.parametrize("most", [1, 2, 3, 4, 7, 8, 15, 16, 127, 128, 2**20])
def test_the_width_of_a_level(most: int) -> None:
    assert width(most) == ceil(log2(most + 1)) + 1 == ceil(log2(2 * most + 1))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(CODINGS)),
    st.sampled_from([1, 2, 3, 7, 8, 100, 127, 128, 4096]),
    st.integers(1, 600),
    st.integers(0, 2**32),
    st.floats(0.01, 2),
)
def test_every_coding_gives_back_what_it_got(entropy: str, most: int, count: int, seed: int, spread: float) -> None:
    drawn = np.random.default_rng(seed).normal(size=count) * spread * most
    levels = (np.clip(np.rint(drawn), -most, most) + most).astype(dtype_for(width(most)))
    coding = CODINGS[entropy]
    data = np.frombuffer(b"".join(coding.encode(levels, most)), np.uint8)
    least, longest = coding.bounds(count, most)
    assert least <= len(data) <= longest
    read = coding.decode(data, count, most)
    assert read.dtype == levels.dtype
    assert np.array_equal(read, levels)


@pytest.mark.parametrize("most", [1, 7, 128, 2**22])
@pytest.mark.parametrize("entropy", sorted(CODINGS))
def test_the_longest_codes_are_inside_the_bounds(entropy: str, most: int) -> None:
    if entropy == "range" and most > 4096:
        return
    for level in (0, most, 2 * most):
        levels = np.full(37, level, dtype_for(width(most)))
        data = np.frombuffer(b"".join(CODINGS[entropy].encode(levels, most)), np.uint8)
        least, longest = CODINGS[entropy].bounds(37, most)
        assert least <= len(data) <= longest
        assert np.array_equal(CODINGS[entropy].decode(data, 37, most), levels)


def test_elias_takes_two_floor_log_plus_one_bits_a_level() -> None:
    levels = np.random.default_rng(0).integers(-40, 41, 999)
    numbers = [2 * level + 1 if level >= 0 else -2 * level for level in levels]
    bits = [2 * floor(log2(number)) + 1 for number in numbers]
    unary = sum(floor(log2(number)) + 1 for number in numbers)
    data = b"".join(elias.encode((levels + 40).astype(np.uint8), 40))
    assert len(data) == 8 + ceil(unary / 8) + ceil((sum(bits) - unary) / 8)


@pytest.mark.parametrize("most", [1, 7, 127])
def test_range_coding_is_within_two_percent_of_the_entropy(most: int) -> None:
    drawn = np.random.default_rng(2).normal(size=60_000) * 0.05 * most
    levels = (np.clip(np.rint(drawn), -most, most) + most).astype(np.uint8)
    pieces = ranges.encode(levels, most)
    table = sum(map(len, pieces[:-1]))
    assert len(pieces[-1]) <= 1.02 * entropy_bytes(levels) + 8
    assert table <= 4 + 5 * (2 * most + 1)


def test_the_entropy_is_that_of_the_histogram() -> None:
    assert entropy_bytes(np.array([3] * 64, np.uint8)) == 0
    assert entropy_bytes(np.array([0, 1, 2, 5] * 16, np.uint8)) == pytest.approx(64 * 2 / 8)
    many = np.random.default_rng(0).integers(0, 200, (1 << 16) + 1).astype(np.uint8)
    assert entropy_bytes(many) == pytest.approx(entropy_bytes(many.astype(np.uint32)))


# ---- sets of indices -------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3000), st.floats(0.0005, 1), st.integers(0, 2**32))
def test_a_set_of_indices_comes_back(count: int, share: float, seed: int) -> None:
    k = share_of(share, count)
    indices = torch.from_numpy(np.sort(np.random.default_rng(seed).choice(count, k, replace=False)))
    data = write_indices(indices, count)
    assert len(data) == indices_length(k, count) <= min(ceil(count / 8), ceil(k * max(1, ceil(log2(count))) / 8))
    assert torch.equal(read_indices(np.frombuffer(data, np.uint8), k, count), indices)


@pytest.mark.parametrize("found", [[5, 3, 9], [5, 5, 9], [5, 9, 1999]])
def test_what_is_no_ascending_set_is_refused(found: list[int]) -> None:
    data = pack(np.array(found, np.uint32), 11)
    with pytest.raises(WireError, match="ascending"):
        read_indices(data, 3, 1500)


def test_a_bitmap_of_another_number_is_refused() -> None:
    with pytest.raises(WireError, match="ascending"):
        read_indices(np.full(2, 255, np.uint8), 7, 16)


@pytest.mark.parametrize("k", [1, 15, 700, 1500])
def test_the_largest_are_the_first_of_a_sorted_list(k: int) -> None:
    """Values in steps, so there are many ties: among equals the first."""
    values = (difference([1500], 6) * 2000).round()
    order = sorted(range(1500), key=lambda i: (-abs(float(values[i])), i))
    assert largest(values, k).tolist() == sorted(order[:k])


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 1.0])
def test_top_k_is_a_contraction(share: float) -> None:
    for seed in range(5):
        v = difference([1500], seed)
        k = share_of(share, 1500)
        rest = v.double().index_fill(0, largest(v, k), 0.0)
        assert rest.square().sum() <= (1 - k / 1500) * v.double().square().sum() * (1 + 1e-12)
