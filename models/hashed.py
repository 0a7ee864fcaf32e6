"""Records that are keys of many look-ups know their hash."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, cast


class HashedOnce:
    """A frozen dataclass's hash, worked out once: a message looks a network and a plan up a dozen times.

    Such a class says `__hash__ = HashedOnce.hash_of_fields`, since a dataclass makes its own in the place of one that
    is inherited.
    """

    __slots__ = ("_hash",)
    _hash: int

    def hash_of_fields(self) -> int:
        """The hash of the values of all fields."""
        try:
            return self._hash
        except AttributeError:
            values = tuple(getattr(self, field.name) for field in fields(cast(Any, self)))
            object.__setattr__(self, "_hash", hash(values))
            return self._hash
