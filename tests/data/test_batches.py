"""Batches: every example once an epoch, never a lonely one at the end."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data import batches, most_together
from models.errors import SettingError


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(count=st.integers(0, 200), size=st.integers(1, 60), epochs=st.integers(0, 3))
def test_every_example_once_an_epoch(count: int, size: int, epochs: int) -> None:
    drawn = list(batches(count, size, _seeded(), epochs))
    rows = torch.cat(drawn) if drawn else torch.empty(0, dtype=torch.int64)
    assert len(rows) == count * epochs
    for epoch in range(epochs):
        assert torch.equal(rows[epoch * count : (epoch + 1) * count].sort().values, torch.arange(count))
    lengths = [len(batch) for batch in drawn]
    assert all(1 <= length <= size + 1 for length in lengths)
    if size > 1 and count > 1:
        assert 1 not in lengths


@given(count=st.integers(1, 60), size=st.integers(1, 20), steps=st.integers(1, 40))
def test_steps_are_the_first_batches_of_as_many_epochs_as_they_need(count: int, size: int, steps: int) -> None:
    taken, epochs = list(batches(count, size, _seeded(), 7, steps)), batches(count, size, _seeded(), steps)
    assert len(taken) == steps
    assert all(torch.equal(one, other) for one, other in zip(taken, epochs, strict=False))


@given(size=st.integers(1, 10**6), count=st.integers(0, 10**6), numbers=st.integers(0, 10**7))
def test_what_is_picked_at_once_is_bounded(size: int, count: int, numbers: int) -> None:
    many, largest = most_together(size, count, numbers), min(size, count)
    assert many >= 1
    assert many == 1 or many * largest * numbers <= 2**20
    assert (many + 1) * max(1, largest) * max(1, numbers) > 2**20


def test_steps_without_examples() -> None:
    assert list(batches(0, 4, _seeded(), 1, 5)) == []


@pytest.mark.parametrize(
    ("count", "size", "lengths"),
    [
        (10, 4, [4, 4, 2]),
        (9, 4, [4, 5]),
        (8, 4, [4, 4]),
        (1, 4, [1]),
        (5, 4, [5]),
        (3, 1, [1, 1, 1]),
        (3, 10, [3]),
        (0, 4, []),
    ],
)
def test_lengths(count: int, size: int, lengths: list[int]) -> None:
    assert [len(batch) for batch in batches(count, size, _seeded(), 1)] == lengths


def test_epochs_differ_and_generators_decide() -> None:
    first, second = batches(1500, 1500, _seeded(), 2)
    assert not torch.equal(first, second)
    again, _ = batches(1500, 1500, _seeded(), 2)
    assert torch.equal(first, again)
    other, _ = batches(1500, 1500, _seeded(1), 2)
    assert not torch.equal(first, other)


def test_batch_size_below_one() -> None:
    with pytest.raises(SettingError, match=r"^batch-size = 0: "):
        next(batches(5, 0, _seeded(), 1))
