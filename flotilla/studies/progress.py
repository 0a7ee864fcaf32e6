"""How far a sweep is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from flotilla.settings import Settings


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a sweep is, in rounds.

    Attributes:
        cells: runs there are; finished, failed, running: of these.
        rounds: of all runs that are still to be had or were had in this call; done: of these, done.
        before: rounds that earlier calls had done.
        seconds: since this call began.
    """

    cells: int = 0
    finished: int = 0
    failed: int = 0
    running: list[str] = field(default_factory=list)
    rounds: int = 0
    done: int = 0
    before: int = 0
    seconds: float = 0.0

    @property
    def left(self) -> float | None:
        """Seconds that are left, at the pace of this call's rounds, starts included; None before the first round."""
        here = self.done - self.before
        return None if here <= 0 else self.seconds / here * (self.rounds - self.done)


def begun(ready: Collection[Settings], jobs: int) -> str:
    """What this call has to do."""
    if not ready:
        return ""
    go_on = sum(bool(settings.config.get("resume")) for settings in ready)
    from_there = f"; {go_on} of them from the last checkpoint" if go_on else ""
    return f"to do: {len(ready)} runs, {min(jobs, len(ready))} side by side{from_there}"
