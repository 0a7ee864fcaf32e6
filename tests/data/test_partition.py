"""Partitions: disjoint, complete, nobody empty, keyed by the seed; also with more than a thousand clients."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from data import SCHEMES, DataSettings, partition
from models.errors import SettingError

DRAWN = [name for name in SCHEMES if name != "natural"]  # that one has its own tests


def _labels(count: int, classes: int, seed: int = 0) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(seed).permutation(np.arange(count) % classes))


def _same(left: list[NDArray[np.int64]], right: list[NDArray[np.int64]]) -> bool:
    return len(left) == len(right) and all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def _check(parts: list[NDArray[np.int64]], count: int, clients: int) -> None:
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
            {"partition": "dirichlet", "num-clients": 1000},
            "dirichlet-alpha = 0.5: allowed is larger with num-clients = 1000 (or fewer clients): in each of 11 draws"
            " somebody was left without any of the 1437 examples",
        ),
        (
            1437,
            {"partition": "labels", "num-clients": 1000},
            "num-clients = 1000: allowed is fewer with labels-per-client = 2:"
            " some class is wanted by more clients than it has examples",
        ),
        (
            1437,
            {"partition": "labels", "labels-per-client": 11},
            "labels-per-client = 11: allowed is 1 to 10 with dataset 'digits'",
        ),
        (
            1437,
            {"partition": "labels", "labels-per-client": 1, "num-clients": 8},
            "labels-per-client = 1: allowed is more with num-clients = 8 (or more clients): nobody has class 8, 9",
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
