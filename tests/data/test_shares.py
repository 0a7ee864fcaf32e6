"""Shares that are found when they are asked for: those of a list, and those that everybody draws by itself."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import SCHEMES, DataSettings, labels_of, load, node_data, partition, shards, train_sizes
from data.shares import Dealt
from models.errors import SettingError

MANY = 1_000_000


@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=20), seed=st.integers(0, 99))
def test_shares_are_those_of_the_list(sizes: list[int], seed: int) -> None:
    draws = np.random.default_rng(seed)
    order = draws.permutation(sum(sizes))
    parts = np.split(order, np.cumsum(sizes)[:-1])
    shares = Dealt.of(parts)
    assert [part.tolist() for part in shares] == [part.tolist() for part in parts]
    assert shares.sizes.tolist() == sizes
    assert [part.tolist() for part in shares[1:3]] == [part.tolist() for part in parts[1:3]]
    numbers = draws.permutation(len(sizes))
    renamed = draws.permutation(sum(sizes))
    assert [one.tolist() for one in shares.through(renamed, numbers)] == [renamed[parts[i]].tolist() for i in numbers]


@given(count=st.integers(1, 300), clients=st.integers(1, 300))
def test_equal_shares_are_those_of_numpy(count: int, clients: int) -> None:
    theirs = np.array_split(np.arange(count), clients)
    assert [part.tolist() for part in Dealt.equal(count, clients)] == [part.tolist() for part in theirs]


def test_nobody_is_beyond_the_last() -> None:
    shares = Dealt.equal(4, 2)
    assert shares[-1].tolist() == shares[1].tolist() == [2, 3]
    for number in (2, -3):
        with pytest.raises(IndexError):
            shares[number]


def test_a_million_clients_draw_for_themselves() -> None:
    settings = DataSettings(partition="drawn", num_clients=MANY, examples_per_client=20)
    shares, few = shards(settings), shards(DataSettings(partition="drawn", num_clients=9, examples_per_client=20))
    assert len(shares) == len(shares.sizes) == MANY
    assert set(shares.sizes[:9].tolist()) == {20}
    for number in (0, 7, MANY - 1):
        rows = shares[number]
        assert len(set(rows.tolist())) == 20
        assert 0 <= rows.min() <= rows.max() < len(load(settings).train_examples)
    assert shares[7].tolist() == few[7].tolist()  # a client more changes nobody else's
    assert shares[0].tolist() != shares[1].tolist()
    kept = sum(sys.getsizeof(value) for value in vars(shares).values()) + shares.sizes.base.nbytes  # type: ignore[union-attr]
    assert kept < 1000


def test_draws_are_even() -> None:
    shares = partition(
        np.zeros(40, dtype=np.int64), DataSettings(partition="drawn", num_clients=4000, examples_per_client=5)
    )
    counts = np.bincount(np.concatenate(list(shares)), minlength=40)
    assert counts.sum() == 20_000
    assert 400 < counts.min() <= counts.max() < 600  # 500 each; deviation 21


def test_more_than_there_is_cannot_be_drawn() -> None:
    with pytest.raises(SettingError) as caught:
        shards(DataSettings(partition="drawn", examples_per_client=1438))
    assert str(caught.value) == "examples-per-client = 1438: allowed is 1 to 1437 with dataset 'digits'"


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name != "natural"])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.35])
def test_sizes_and_labels_are_known_without_the_examples(scheme: str, fraction: float) -> None:
    settings = DataSettings(partition=scheme, num_clients=40, local_test_fraction=fraction)
    nodes = [node_data(settings, number) for number in range(40)]
    assert train_sizes(settings).tolist() == [len(node.train) for node in nodes]
    assert [labels_of(settings, number) for number in range(40)] == [node.labels for node in nodes]
