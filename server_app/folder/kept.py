"""Which checkpoints stay, whatever comes after them: rounds that counted, the last good one, and the best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from server_app.metrics import Headline, value_of

_COUNTED = 2  # the newest rounds that counted


@dataclass(frozen=True, kw_only=True)
class KeptRounds:
    """Rounds whose checkpoints stay.

    Attributes:
        counted: the newest rounds that counted, at most two. A round that is abandoned takes nobody's place.
        good: the last round that was evaluated and whose loss had not exploded; 0 is none.
        best: the round of the best headline, the first one on ties; 0 is none.
        value: of the best.
    """

    counted: tuple[int, ...] = ()
    good: int = 0
    best: int = 0
    value: float | None = None

    @property
    def rounds(self) -> frozenset[int]:
        """All of them."""
        return frozenset({*self.counted, self.good, self.best} - {0})

    def after(self, row: Mapping[str, Any], *, good: bool, headline: Headline) -> KeptRounds:
        """What stays once the round of this row of metrics is saved, too.

        Args:
            row: what happened in it.
            good: whether its loss is known and has not exploded.
            headline: what the best is the best by.
        """
        number, value = row["round"], value_of(row)
        found = self if row["abandoned"] else replace(self, counted=(*self.counted, number)[-_COUNTED:])
        if good:
            found = replace(found, good=number)
        if value is not None and (self.value is None or headline.better(value, self.value)):
            found = replace(found, best=number, value=value)
        return found

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"counted": list(self.counted), "good": self.good, "best": self.best, "value": self.value}

    @staticmethod
    def of_json(values: Mapping[str, Any]) -> KeptRounds:
        """What `to_json` gave."""
        return KeptRounds(**{**values, "counted": tuple(values["counted"])})
