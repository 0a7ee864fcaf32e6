"""How far a sweep is, for a person: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from flotilla.studies import progress as sweep


class Screen:
    """A context in which `show` may be called.

    Args:
        cells: runs there are.
    """

    def __init__(self, cells: int) -> None:
        self._console = Console()
        self._bar = Progress(
            TextColumn("{task.fields[runs]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("rounds · {task.fields[left]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, runs=f"{cells} runs: checking", left="")

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def show(self, line: str, progress: sweep.Progress) -> None:
        """A line, if there is one, and how far everything is."""
        runs = f"{progress.finished}/{progress.cells} runs" + (f", {progress.failed} failed" * bool(progress.failed))
        left = "" if progress.left is None else f"{_time(progress.left)} left"
        self._bar.update(self._task, total=progress.rounds, completed=progress.done, runs=runs, left=left)
        if line:
            told = f"[{runs}{', ' + left if left else ''}] {line}" if not self._console.is_terminal else line
            self._console.print(told, markup=False, highlight=False, soft_wrap=True)


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
