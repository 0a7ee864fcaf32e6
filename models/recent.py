"""Answers that take a while to work out, by what they depend on: the most recent ones are kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """A bounded memory.

    Args:
        most: answers that are kept; the one that was not asked for the longest goes first.
    """

    def __init__(self, most: int) -> None:
        self._most, self._known = most, OrderedDict[Key, Value]()

    def __len__(self) -> int:
        return len(self._known)

    def __call__(self, key: Key, work_out: Callable[[], Value]) -> Value:
        """The answer to a key, worked out if it is not known; what is raised then is not kept."""
        if key not in self._known:
            found = work_out()
            while len(self._known) >= self._most:
                self._known.popitem(last=False)
            self._known[key] = found
        self._known.move_to_end(key)
        return self._known[key]
