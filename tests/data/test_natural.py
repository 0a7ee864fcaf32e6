"""The natural partition: everybody has what is theirs, and only where the data say whose it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from data import SCHEMES, SOURCES, DataSettings, load, node_data, partition, shards
from models.errors import SettingError
from tests.corpora import write_har, write_shakespeare


def _settings(clients: int, seed: int = 1) -> DataSettings:
    return DataSettings(dataset="har", partition="natural", num_clients=clients, seed=seed)


def _divide(owners: NDArray[np.int64], clients: int, seed: int = 1) -> Sequence[NDArray[np.int64]]:
    return partition(np.zeros(len(owners), dtype=np.int64), _settings(clients, seed), owners)


def _owners(people: int, seed: int = 0) -> NDArray[np.int64]:
    """Non-contiguous numbers, shuffled; of 1 to 6 examples each."""
    draw = np.random.default_rng(seed)
    numbers = draw.choice(50_000, people, replace=False)
    return draw.permutation(np.repeat(numbers, draw.integers(1, 7, people)))


@given(people=st.integers(3, 60), share=st.floats(0.05, 1), seed=st.integers(0, 10**6))
def test_everybody_is_somewhere_whole_and_in_order(people: int, share: float, seed: int) -> None:
    owners = _owners(people, seed)
    numbers, counts = np.unique(owners, return_counts=True)
    kept = numbers[counts >= 2]
    clients = max(1, int(share * len(kept)))
    if not len(kept):
        return
    parts = _divide(owners, clients, seed)
    rows = np.concatenate(parts)
    assert len(parts) == clients
    assert len(np.unique(rows)) == len(rows)
    assert sorted(rows.tolist()) == np.flatnonzero(np.isin(owners, kept)).tolist()
    groups = [np.unique(owners[part]) for part in parts]
    assert np.concatenate(groups).tolist() == kept.tolist()  # disjoint, ascending, nobody torn apart
    assert max(map(len, groups)) - min(map(len, groups)) <= 1


def test_over_a_thousand_people() -> None:
    owners = _owners(2500)
    numbers, counts = np.unique(owners, return_counts=True)
    kept = numbers[counts >= 2]
    parts = _divide(owners, len(kept))
    assert len(parts) > 1500
    theirs: dict[int, list[int]] = {number: [] for number in kept.tolist()}
    for row, owner in enumerate(owners.tolist()):
        if owner in theirs:
            theirs[owner].append(row)
    assert [part.tolist() for part in parts] == list(theirs.values())


def test_the_seed_does_not_matter() -> None:
    owners = _owners(30)
    one, other = _divide(owners, 9, 1), _divide(owners, 9, 2)
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_more_clients_than_people() -> None:
    owners = np.array([7, 7, 3, 3, 3, 900, 5])
    assert [part.tolist() for part in _divide(owners, 2)] == [[2, 3, 4], [0, 1]]
    with pytest.raises(SettingError) as caught:
        _divide(owners, 3)
    assert (caught.value.key, caught.value.value) == ("num-clients", 3)
    assert str(caught.value).startswith("num-clients = 3: allowed is at most 2 with partition 'natural'")


@pytest.mark.parametrize("name", SOURCES)
def test_only_where_the_data_set_has_owners(name: str) -> None:
    if SOURCES[name].owned:
        DataSettings(dataset=name, partition="natural")
        return
    with pytest.raises(SettingError) as caught:
        DataSettings(dataset=name, partition="natural")
    assert caught.value.key == "partition"
    assert "one of iid, dirichlet" in caught.value.allowed


def test_without_owners() -> None:
    with pytest.raises(SettingError, match=r"^partition = 'natural': allowed is another one"):
        partition(np.zeros(9, dtype=np.int64), _settings(2))


@pytest.mark.parametrize("name", ["har", "shakespeare"])
def test_a_client_has_one_owner_s_examples(tmp_path: Path, name: str) -> None:
    write_har(tmp_path)
    write_shakespeare(tmp_path)
    people = {"har": 4, "shakespeare": 2}[name]
    settings = DataSettings(
        dataset=name, data_root=str(tmp_path), partition="natural", num_clients=people, sequence_length=20
    )
    owners = load(settings).train_examples.owners
    assert owners is not None
    for number, rows in enumerate(shards(settings)):
        assert len(set(owners[rows].tolist())) == 1
        node = node_data(settings, number)
        assert len(node.train) + len(node.test) == len(rows)


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name not in ("natural", "drawn")])
def test_people_s_examples_can_be_divided_otherwise(tmp_path: Path, scheme: str) -> None:
    write_har(tmp_path)
    settings = DataSettings(dataset="har", data_root=str(tmp_path), partition=scheme, num_clients=6)
    assert sum(map(len, shards(settings))) == 32
