"""Who does not answer is asked less and less often.

After the first round in which somebody was silent it is asked in the next one as ever, after the second in a row one
round goes by without it, then three, seven, and so on. A round in which it answers everything ends that. Only rounds in
which it was asked count.
"""

from __future__ import annotations

from collections.abc import Container, Hashable, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Generic, TypeVar

LONGEST = 64  # rounds from one question to the next

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class _Silence:
    """Attributes: rounds in a row without an answer, the last of them, the last round with one."""

    rounds: int
    last: int
    heard: int = 0


class BackOff(Generic[K]):
    """Remembers who was silent; of who never was it knows nothing.

    Attributes:
        anybody: whether somebody ever was.
    """

    def __init__(self) -> None:
        self._silent: dict[K, _Silence] = {}
        self.anybody = False

    def missed(self, who: K, number: int) -> None:
        """Note that a question of a round was not answered, whatever else was."""
        known = self._silent.get(who)
        if known is None:
            self._silent[who] = _Silence(1, number)
            self.anybody = True
        elif known.last != number:
            answered = known.last < known.heard < number
            known.rounds, known.last = (1 if answered else known.rounds + 1), number

    def heard(self, who: K, number: int) -> None:
        """Note that a question of a round was answered."""
        if who in self._silent:
            self._silent[who].heard = number

    def rounds(self, who: K) -> int:
        """How many rounds in a row it has not answered, of those in which it was asked."""
        known = self._silent.get(who)
        return 0 if known is None or known.heard > known.last else known.rounds

    def rests(self, who: K, number: int) -> bool:
        """Whether it is not asked in a round."""
        known = self._silent.get(who)
        return known is not None and number < known.last + min(2 ** (known.rounds - 1), LONGEST)

    def keep(self, whom: Container[K]) -> None:
        """Forget all others."""
        self._silent = {who: silence for who, silence in self._silent.items() if who in whom}

    def checkpoint(self) -> list[list[Any]]:
        """As JSON."""
        return [[who, *astuple(silence)] for who, silence in self._silent.items()]

    def restore(self, values: Sequence[Sequence[Any]]) -> None:
        """Take up a `checkpoint`."""
        self._silent = {who: _Silence(*silence) for who, *silence in values}
        self.anybody = bool(values)
