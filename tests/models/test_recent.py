"""What a bounded memory keeps."""

from __future__ import annotations

from functools import partial

import pytest

from models.recent import Recent


def test_the_most_recent_are_kept() -> None:
    asked: list[int] = []

    def square(number: int) -> int:
        asked.append(number)
        return number**2

    known = Recent[int, int](3)
    for number in (1, 2, 3, 1, 4):  # 2 was not asked for the longest
        assert known(number, partial(square, number)) == number**2
    assert len(known) == 3
    for number in (1, 3, 4):
        known(number, partial(square, number))
    assert asked == [1, 2, 3, 4]
    assert known(2, lambda: square(2)) == 4
    assert asked[-1] == 2


def test_what_is_raised_is_not_kept() -> None:
    known = Recent[str, float](2)
    with pytest.raises(ZeroDivisionError):
        known("x", lambda: 1 / 0)
    assert known("x", lambda: 1.0) == 1.0
