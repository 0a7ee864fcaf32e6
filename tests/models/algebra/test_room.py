"""Memory that is kept is what the last round needed, or twice that."""

from __future__ import annotations

from weakref import ReferenceType, ref

import pytest
import torch

from models.algebra.room import Room


def place(room: Room, purpose: str, numbers: int) -> tuple[int, int]:
    """Where the place is, and how many numbers it has."""
    found = room(purpose, (numbers,))
    return found.data_ptr(), found.untyped_storage().nbytes() // found.itemsize


def test_the_same_place_serves_every_round() -> None:
    room = Room()
    first = place(room, "a", 100)
    for numbers in (60, 100, 51):
        room.reset()
        assert place(room, "a", numbers) == first
    assert room("a", (60,), torch.float64).data_ptr() != place(room, "a", 60)[0]


def test_a_reset_lets_go_of_what_the_last_round_did_not_need() -> None:
    room = Room()
    place(room, "large", 100)
    place(room, "once", 1000)
    room.reset()
    assert place(room, "large", 10)[1] == 100  # as before: the round may need all of it yet
    room.reset()
    assert [place(room, purpose, 10)[1] for purpose in ("large", "once")] == [10, 10]


def test_a_place_that_grows_is_let_go_of_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never are there two of one purpose."""
    room, made = Room(), list[ReferenceType[torch.Tensor]]()
    empty = torch.empty

    def counted(numbers: int, dtype: torch.dtype) -> torch.Tensor:
        assert all(one() is None for one in made)
        found = empty(numbers, dtype=dtype)
        made.append(ref(found))
        return found

    monkeypatch.setattr("models.algebra.room.torch.empty", counted)
    assert [place(room, "a", numbers)[1] for numbers in (10, 30, 20)] == [10, 30, 30]
    assert len(made) == 2
