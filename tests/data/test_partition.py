"""Partitions: disjoint, complete, nobody empty, keyed by the seed; also with more than a thousand clients."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from data import SCHEMES, DataSettings, partition
from models.errors import SettingError

DRAWN = [name for name in SCHEMES if name not in ("natural", "drawn")]  # those have tests of their own


def _labels(count: int, classes: int, seed: int = 0) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(seed).permutation(np.arange(count) % classes))


def _same(left: Sequence[NDArray[np.int64]], right: Sequence[NDArray[np.int64]]) -> bool:
    return len(left) == len(right) and all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def _check(parts: Sequence[NDArray[np.int64]], count: int, clients: int) -> None:
    assert len(parts) == clients
    assert min(map(len, parts)) >= 1
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(count))


@pytest.mark.parametrize("scheme", DRAWN)
def test_a_partition_with_over_a_thousand_clients(scheme: str) -> None:
    labels = _labels(33_333, 10)
    chosen = DataSettings(partition=scheme, num_clients=1203)
    parts = partition(labels, chosen)
    _check(parts, 33_333, 1203)
    assert _same(parts, partition(labels, chosen))
    assert not _same(parts, partition(labels, DataSettings(partition=scheme, num_clients=1203, seed=2)))


@settings(max_examples=25, deadline=None)
@given(
    scheme=st.sampled_from(DRAWN),
    clients=st.integers(10, 40),
    classes=st.integers(2, 10),
    seed=st.integers(0, 10**6),
)
def test_a_partition_whatever_the_settings(scheme: str, clients: int, classes: int, seed: int) -> None:
    labels = _labels(1500, classes, seed)
    parts = partition(labels, DataSettings(partition=scheme, num_clients=clients, seed=seed, dirichlet_alpha=1.0))
    _check(parts, 1500, clients)


def test_iid_shares_are_equal_and_shuffled() -> None:
    labels = _labels(10_007, 10)
    parts = partition(labels, DataSettings(num_clients=20))
    assert {len(part) for part in parts} == {500, 501}
    # Sorted labels, cut in order, would give each client one or two classes.
    assert all(len(np.unique(labels[part])) == 10 for part in parts)


def test_one_client_may_have_every_example_and_each_client_one() -> None:
    labels = _labels(1200, 10)
    _check(partition(labels, DataSettings(num_clients=1)), 1200, 1)
    _check(partition(labels, DataSettings(num_clients=1200)), 1200, 1200)


def test_dirichlet_is_more_alike_the_larger_alpha() -> None:
    labels = _labels(20_000, 10)

    def spread(alpha: float) -> float:
        parts = partition(labels, DataSettings(partition="dirichlet", dirichlet_alpha=alpha, num_clients=20))
        shares = np.array([np.bincount(labels[part], minlength=10) / len(part) for part in parts])
        return float(shares.std(axis=0).mean())

    assert spread(0.1) > 2 * spread(1.0) > 4 * spread(100.0)


@pytest.mark.parametrize("wanted", [1, 2, 10])
def test_labels_gives_each_client_that_many(wanted: int) -> None:
    labels = _labels(20_000, 10)
    parts = partition(labels, DataSettings(partition="labels", labels_per_client=wanted, num_clients=100))
    assert {len(np.unique(labels[part])) for part in parts} == {wanted}


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 40), min_size=2, max_size=12),
    clients=st.integers(1, 30),
    wanted=st.integers(1, 12),
    seed=st.integers(0, 10**6),
)
def test_labels_are_dealt_whenever_they_can_be(counts: list[int], clients: int, wanted: int, seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    chosen = DataSettings(partition="labels", num_clients=clients, labels_per_client=wanted, seed=seed)
    # A client has as many classes as it wants, every class a client, every holder an example: else nothing can do it.
    places = sum(min(count, clients) for count in counts)
    if wanted <= len(counts) <= clients * wanted <= places:
        parts = partition(labels, chosen)
        _check(parts, len(labels), clients)
        assert {len(np.unique(labels[part])) for part in parts} == {wanted}
    else:
        with pytest.raises(SettingError):
            partition(labels, chosen)


def test_five_clients_of_two_labels_share_ten_classes_whatever_the_seed() -> None:
    labels = _labels(1437, 10)
    for seed in range(20):
        chosen = DataSettings(partition="labels", num_clients=5, labels_per_client=2, seed=seed)
        parts = partition(labels, chosen)
        _check(parts, 1437, 5)
        assert _same(parts, partition(labels, chosen))


def test_dealt_classes_have_equal_shares_and_even_holders() -> None:
    labels = np.repeat(np.arange(4), [100, 100, 100, 2])  # a draw wants the last class of more than two clients
    parts = partition(labels, DataSettings(partition="labels", num_clients=10, labels_per_client=2))
    shares = np.array([np.bincount(labels[part], minlength=4) for part in parts])
    assert (shares > 0).sum(axis=0).tolist()[3] == 2
    assert (shares > 0).sum(axis=0)[:3].tolist() == [6, 6, 6]
    assert all(np.ptp(column[column > 0]) <= 1 for column in shares.T)


def test_dirichlet_leaves_nobody_without_an_example() -> None:
    labels = _labels(1437, 10)
    parts = partition(labels, DataSettings(partition="dirichlet", num_clients=1000))  # no ten draws do it
    _check(parts, 1437, 1000)


def test_balanced_dirichlet_has_equal_sizes_and_unlike_classes() -> None:
    labels = _labels(20_003, 10)

    def spread(alpha: float) -> float:
        parts = partition(labels, DataSettings(partition="dirichlet-balanced", dirichlet_alpha=alpha, num_clients=20))
        _check(parts, 20_003, 20)
        assert {len(part) for part in parts} == {1000, 1001}
        shares = np.array([np.bincount(labels[part], minlength=10) / len(part) for part in parts])
        return float(shares.std(axis=0).mean())

    assert spread(0.1) > 2 * spread(10.0) > 4 * spread(1000.0)


@pytest.mark.parametrize("scheme", ["quantity", "linear", "square", "exponential"])
def test_skewed_quantities_have_classes_alike(scheme: str) -> None:
    labels = _labels(50_000, 10)
    parts = partition(labels, DataSettings(partition=scheme, num_clients=8))
    _check(parts, 50_000, 8)
    large = [part for part in parts if len(part) > 2000]
    assert max(map(len, parts)) > 3 * min(map(len, parts))
    assert all(abs(np.bincount(labels[part], minlength=10) / len(part) - 0.1).max() < 0.03 for part in large)


def test_linear_sizes_are_in_proportion_to_the_place() -> None:
    parts = partition(_labels(1000, 2), DataSettings(partition="linear", num_clients=4))
    assert sorted(map(len, parts)) == [100, 200, 300, 400]


def test_shards_are_a_few_pieces_of_the_sorted_labels() -> None:
    labels = _labels(2000, 10)
    parts = partition(labels, DataSettings(partition="shards", num_clients=10, labels_per_client=2))
    assert {len(part) for part in parts} == {200}
    assert max(len(np.unique(labels[part])) for part in parts) <= 2  # 20 pieces of 100, 200 of a class


def test_labels_do_not_follow_from_the_partition_id() -> None:
    labels = _labels(20_000, 10)
    parts = partition(labels, DataSettings(partition="labels", labels_per_client=1, num_clients=100))
    # Five tiers by id modulo 5 would otherwise see two classes each.
    seen = {int(labels[part[0]]) for part in parts[::5]}
    assert len(seen) > 4


@pytest.mark.parametrize(
    ("count", "config", "message"),
    [
        (1437, {"num-clients": 5000}, 'num-clients = 5000: allowed is at most 1437 with dataset "digits"'),
        (
            1437,
            {"partition": "labels", "num-clients": 1000},
            "num-clients = 1000: allowed is at most 718 with labels-per-client = 2:"
            " everybody is to have an example of each",
        ),
        (
            1437,
            {"partition": "shards", "num-clients": 1000},
            "num-clients = 1000: allowed is at most 718 with labels-per-client = 2 shards of 1437 examples",
        ),
        (
            1437,
            {"partition": "labels", "labels-per-client": 11},
            "labels-per-client = 11: allowed is 1 to 10 with dataset 'digits'",
        ),
        (
            1437,
            {"partition": "labels", "labels-per-client": 1, "num-clients": 8},
            "labels-per-client = 1: allowed is 2 to 10 with num-clients = 8, or num-clients of at least 10:"
            " else some of the 10 classes are nobody's",
        ),
    ],
)
def test_what_cannot_be_divided_is_said_in_one_line(
    count: int, config: dict[str, bool | int | float | str], message: str
) -> None:
    with pytest.raises(SettingError) as caught:
        partition(_labels(count, 10), DataSettings.from_config(config))
    assert str(caught.value) == message


@pytest.mark.parametrize("scheme", DRAWN)
def test_leaves_no_trace(scheme: str, capfd: pytest.CaptureFixture[str]) -> None:
    partition(_labels(100, 10), DataSettings(partition=scheme, num_clients=10))  # imports happen here
    capfd.readouterr()
    numpy_before, python_before, files = np.random.get_state(legacy=False), random.getstate(), os.listdir()  # noqa: NPY002
    partition(_labels(3000, 10), DataSettings(partition=scheme, num_clients=10))
    assert str(numpy_before) == str(np.random.get_state(legacy=False))  # noqa: NPY002
    assert python_before == random.getstate()
    assert os.listdir() == files
    assert capfd.readouterr() == ("", "")
