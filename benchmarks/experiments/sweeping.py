"""Many runs for a table: those that are not finished, one after another or side by side, and how far they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from benchmarks.document import ROOT
from benchmarks.task import Options
from flotilla.settings import SettingsError
from flotilla.studies.plan import Cell
from flotilla.studies.progress import Progress
from flotilla.studies.screen import Screen
from flotilla.studies.sweep import Folder, run_sweep


def run(
    place: Folder,
    wanted: Sequence[Cell],
    options: Options,
    *,
    preload: Sequence[str] = (),
    finished: Callable[[], None] = lambda: None,
) -> None:
    """Run what is not finished, and say how far it is.

    Args:
        place: folder of the sweep.
        wanted: its runs, in their order.
        options: how many processes.
        preload: modules that all runs need, imported once in place of once a run.
        finished: called whenever a run has ended.

    Raises:
        SettingsError: a run that cannot be, or one that failed.
    """
    jobs = os.cpu_count() or 1 if options.processes is None else max(1, options.processes)
    with Screen(len(wanted)) as screen:

        def report(line: str, progress: Progress) -> None:
            screen.show(line, progress)
            if line:
                finished()

        progress = run_sweep(place, wanted, ROOT, jobs=jobs, processes=0, retry=True, preload=preload, report=report)
    if progress.finished < progress.cells:
        raise SettingsError(f"{progress.cells - progress.finished} of {progress.cells} runs failed or were stopped")


def with_data_root(cells: Sequence[Cell], options: Options) -> list[Cell]:
    """The same runs, on data where the command line says that they are."""
    if not options.data_root:
        return list(cells)
    return [Cell(row=one.row, seed=one.seed, keys={**one.keys, "data-root": options.data_root}) for one in cells]
