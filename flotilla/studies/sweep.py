"""Runs the cells of a sweep, several side by side, and goes on where it was stopped.

A sweep's folder says everything: `sweep.json` which runs there are, `runs/NAME` one run folder each, `logs/NAME.log`
what it said, `failed/NAME.json` why it failed. A run is finished if its summary says so; one that was stopped or killed
goes on from its last checkpoint; one that failed, or was killed alone, is left as it is until asked for.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from flotilla.settings import Settings, SettingsError, prepare
from flotilla.studies.plan import Cell
from flotilla.studies.progress import Progress, begun
from models.errors import SettingError
from server_app.folder.files import replace_text
from server_app.folder.lock import RunLock
from server_app.folder.progress import shown_as
from server_app.folder.run_folder import METRICS, SUMMARY
from server_app.folder.settle import settle_ended
from server_app.metrics import value_of

SWEEP, RUNS, LOGS, FAILED = "sweep.json", "runs", "logs", "failed"
STOPPED = 128 + signal.SIGTERM  # exit code of a run that was told to stop
# What a run needs late, for its folder: two seconds of the processor, once in place of once a run.
_LATE = (
    "tensorboard.compat.proto.event_pb2",
    "tensorboard.summary.writer.record_writer",
    "matplotlib.backends.backend_svg",
    "matplotlib.figure",
)
_LOOK = 1.0  # seconds between two looks at how far the runs are
_END = 30.0  # seconds that runs get to stop in, after which they are killed

Report = Callable[[str, Progress], None]  # a line that is worth reading (or ""), and how far everything is


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A sweep's folder."""

    path: Path

    def run(self, cell: Cell) -> Path:
        """Run folder of a cell."""
        return self.path / RUNS / cell.name

    def log(self, cell: Cell) -> Path:
        """What a cell's run said."""
        return self.path / LOGS / f"{cell.name}.log"

    def failure(self, cell: Cell) -> Path:
        """Why it failed."""
        return self.path / FAILED / f"{cell.name}.json"

    def finished(self, cell: Cell) -> bool:
        """Whether its run ended as it should."""
        return _status(self.run(cell)) == "finished"

    def failed(self, cell: Cell) -> str | None:
        """Why it failed, if it did."""
        try:
            return str(json.loads(self.failure(cell).read_text(encoding="utf-8"))["why"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, cells: Sequence[Cell]) -> None:
        """Write which runs there are."""
        for name in (RUNS, LOGS, FAILED):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        told = [{"row": cell.row, "seed": cell.seed, "run": cell.name, "keys": dict(cell.keys)} for cell in cells]
        replace_text(self.path / SWEEP, json.dumps({"runs": told}, indent=1) + "\n")


def _status(run: Path) -> str:
    try:
        return str(json.loads((run / SUMMARY).read_text(encoding="utf-8"))["status"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _rounds_done(run: Path) -> int:
    try:
        with (run / METRICS).open("rb") as file:
            return sum(1 for _ in file)
    except OSError:
        return 0


def settings_of(folder: Folder, cell: Cell, app_dir: Path, code: Sequence[Path]) -> Settings:
    """The settings of a cell's run, checked: a new one, or one that goes on.

    Raises:
        SettingsError: names the cell.
    """
    from flotilla.studies.one_run import THREADS
    from models.device import threads

    run = folder.run(cell)
    goes_on = any((run / "checkpoints").glob("round-*.json"))
    if run.is_dir() and (owner := _owner(run)):
        raise SettingsError(f"{cell.shown}: {run} is in use: {owner}")
    if not goes_on and run.is_dir():
        shutil.rmtree(run)  # no round of it was saved
    pairs = [f"{key}={json.dumps(value)}" for key, value in cell.keys.items()]
    try:
        if goes_on:
            with threads(THREADS):  # as in the process that will go on with it, not as here
                return prepare(app_dir, [], resume=run, code=code)
        return prepare(app_dir, pairs, run_dir=run, code=code)
    except SettingsError as error:
        raise SettingsError(f"{cell.shown}: {error}") from None


def _owner(run: Path) -> str | None:
    """Who writes to a run folder; the runs of a sweep that was killed get a moment to end in."""
    until = monotonic() + _END
    while (owner := RunLock(run).other_owner()) and monotonic() < until:
        sleep(0.2)
    return owner


@contextmanager
def _alone(folder: Folder) -> Iterator[None]:
    """The sweep's folder, for one sweep at a time; it is not left behind empty.

    Raises:
        SettingsError: another one is running there.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    lock = RunLock(folder.path)
    try:
        lock.take("folder")
    except SettingError as error:
        raise SettingsError(str(error)) from None
    try:
        yield
    finally:
        lock.release()
        with suppress(OSError):
            folder.path.rmdir()


def run_sweep(
    folder: Folder,
    cells: Sequence[Cell],
    app_dir: Path,
    *,
    jobs: int,
    processes: int,
    only: Collection[Cell] | None = None,
    retry: bool = False,
    code: Sequence[Path] = (),
    preload: Sequence[str] = (),
    report: Report = lambda line, progress: None,
) -> Progress:
    """Run what is not finished.

    Args:
        folder: of the sweep.
        cells: its runs.
        only: those that may be run, the same objects; None is all.
        app_dir: the Flower app.
        jobs: runs side by side.
        processes: of each run, clients that train at once; 0 is in the run's own process.
        retry: whether runs that failed are tried again.
        code: packages of the user's own.
        preload: modules that all runs need, imported once in place of once a run.
        report: told what happens.

    Raises:
        SettingsError: a run that cannot be, or another sweep in the folder; nothing was started.
        KeyboardInterrupt: as it came; the runs have stopped, and can go on.
    """
    chosen = cells if only is None else [cell for cell in cells if cell in only]
    with _alone(folder):
        return _run_sweep(
            folder, cells, chosen, app_dir, jobs, processes, retry=retry, code=code, preload=preload, report=report
        )


def _run_sweep(
    folder: Folder,
    cells: Sequence[Cell],
    chosen: Sequence[Cell],
    app_dir: Path,
    jobs: int,
    processes: int,
    *,
    retry: bool,
    code: Sequence[Path],
    preload: Sequence[str],
    report: Report,
) -> Progress:
    from flotilla.local.start import prepare_workers

    context = prepare_workers("flotilla.studies.one_run", *_LATE, *preload)
    todo = [cell for cell in chosen if not folder.finished(cell) and (retry or folder.failed(cell) is None)]
    ready = {cell: settings_of(folder, cell, app_dir, code) for cell in todo}
    folder.write(cells)
    progress = Progress(
        cells=len(cells),
        finished=sum(folder.finished(cell) for cell in cells),
        failed=sum(cell not in ready and not folder.finished(cell) and bool(folder.failed(cell)) for cell in cells),
        rounds=sum(int(settings.config["num-server-rounds"]) for settings in ready.values()),
    )
    progress.before = progress.done = sum(_rounds_done(folder.run(cell)) for cell in todo)
    began, waiting, running = monotonic(), list(todo), dict[Cell, BaseProcess]()
    report(begun(ready.values(), jobs) if chosen is cells else "", progress)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.pop(0)
                running[cell] = _started(context, folder, cell, ready[cell], processes)
            wait([process.sentinel for process in running.values()], timeout=_LOOK)
            progress.running = [cell.shown for cell in running]
            progress.done = sum(_rounds_done(folder.run(cell)) for cell in todo)
            progress.seconds = monotonic() - began
            for line in _ended(folder, running, progress):
                report(line, progress)
            report("", progress)
    except BaseException:
        _stop(running)
        raise
    return progress


def _started(context: Any, folder: Folder, cell: Cell, settings: Settings, processes: int) -> BaseProcess:
    """A process that runs a cell."""
    from flotilla.studies.one_run import run_one

    folder.failure(cell).unlink(missing_ok=True)
    process: BaseProcess = context.Process(
        target=run_one,
        args=(dict(settings.config), settings.nodes, processes, folder.log(cell), dict(settings.code.packages)),
        name=cell.shown,
    )
    process.start()
    return process


def _ended(folder: Folder, running: dict[Cell, BaseProcess], progress: Progress) -> Iterator[str]:
    """Take the runs that have ended out of those that run; a line about each."""
    for cell, process in list(running.items()):
        if process.exitcode is None:
            continue
        del running[cell]
        if folder.finished(cell) and process.exitcode == 0:
            progress.finished += 1
            yield f"finished: {cell.shown}{_result(folder.run(cell))}"
            continue
        if process.exitcode == STOPPED:
            yield f"stopped: {cell.shown}; the same command goes on with it"
            continue
        progress.failed += 1
        why = _last_line(folder.log(cell)) if process.exitcode >= 0 else f"killed by signal {-process.exitcode}"
        if folder.run(cell).is_dir():
            settle_ended(folder.run(cell))
        replace_text(folder.failure(cell), json.dumps({"why": why, "code": process.exitcode}) + "\n")
        yield f"failed: {cell.shown}: {why} ({folder.log(cell)})"


def _result(run: Path) -> str:
    try:
        summary: Mapping[str, Any] = json.loads((run / SUMMARY).read_text(encoding="utf-8"))
        return f": {shown_as(summary)(value_of(summary['last']))}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")[:500]


def _stop(running: Mapping[Cell, BaseProcess]) -> None:
    """Let the runs stop, so that each can go on; kill what does not."""
    for process in running.values():
        process.terminate()
    until = monotonic() + _END
    for process in running.values():
        process.join(max(0.0, until - monotonic()))
        if process.exitcode is None:
            process.kill()
            process.join()
