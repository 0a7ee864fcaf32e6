"""Looks for settings by trials (`[search]` in a sweep's file): Optuna draws, a sweep runs, devices score.

A trial's score is the mean over devices of what their tier's network does, in the last round, on the examples that they
kept out of their training. The server's test set chooses nothing, so it can still be what the found settings are judged
by, in runs of other seeds.

All that was drawn and scored is in `search.log` of the sweep's folder, Optuna's own journal; runs are cells of the
sweep. So a search that was stopped goes on: trials that were drawn and not scored are run first, from their last
checkpoint. What is drawn depends on the sampler's seed, the trial's number and the trials scored before it, and on no
clock: a search that was stopped ends as one that was not.

Each value alone may be allowed and two of them together not. So every trial that was drawn is checked; one that is
refused is not run, and the search goes on without its score.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from statistics import fmean

from flotilla.settings import SettingsError, Value, prepare
from flotilla.studies.plan import Cell
from flotilla.studies.progress import Progress
from flotilla.studies.search_journal import FAILED, JOURNAL, REFUSED, TO_DO, Journal, Trial
from flotilla.studies.search_plan import SearchPlan
from flotilla.studies.sweep import Folder
from server_app.folder.files import replace_text
from server_app.folder.run_folder import read_metrics
from server_app.metrics import METRICS

BEST = "best.toml"

Sweep = Callable[[Sequence[Cell], Sequence[Cell]], Progress]  # of all cells there are, runs some
Check = Callable[[Mapping[str, Value]], str | None]  # why settings cannot be run; None if they can


@dataclass(frozen=True, slots=True)
class Score:
    """What devices said of a trial, and whether more of it is better."""

    mean: float
    higher: bool


def refusal(keys: Mapping[str, Value], app_dir: Path, code: Sequence[Path] = ()) -> str | None:
    """Why settings cannot be run; None if they can."""
    try:
        prepare(app_dir, [f"{key}={json.dumps(value)}" for key, value in keys.items()], code=code)
    except SettingsError as error:
        return str(error)
    return None


def check_corners(plan: SearchPlan, refused: Check) -> None:
    """Find out whether the ends of ranges and the seeds can be run.

    Raises:
        SettingsError: names the values and what is allowed.
    """
    for values in plan.corners():
        if (why := refused({**plan.settings, **values})) is not None:
            raise SettingsError(f"{', '.join(f'{key}={value}' for key, value in values.items())}: {why}")


def search(
    plan: SearchPlan, folder: Folder, sweep: Sweep, *, refused: Check = lambda keys: None, retry: bool = False
) -> list[Trial]:
    """Run the trials that are not scored yet; the journal and `best.toml` are kept as it goes.

    It ends before its last trial where a run was stopped: what is drawn next depends on that trial's score.

    Args:
        plan: of the search.
        folder: of the sweep.
        sweep: runs cells.
        refused: which trials cannot be run.
        retry: whether trials with runs that failed, or that were refused, are tried again.

    Returns:
        All trials, by number.

    Raises:
        SettingsError: Optuna is not installed, or the folder has another search.
    """
    journal = Journal(plan, folder)
    if retry:
        _try_again(journal, plan, folder, refused)
    while True:
        # Those that are drawn together are drawn before any of them is scored, also where that was interrupted.
        drawn = len(journal.trials())
        while drawn < plan.trials and (drawn % plan.together or not _waiting(journal)):
            journal.draw(drawn)
            drawn += 1
        if not _waiting(journal):
            return journal.trials()
        for trial in _waiting(journal):
            if (why := _refused(plan, trial, refused)) is not None:
                journal.give_up(trial, REFUSED, why)
        trials = [trial for trial in journal.trials() if trial.state != REFUSED]
        cells = {trial.number: plan.cells(trial.number, trial.values) for trial in trials}
        waiting = [trial for trial in trials if trial.state == TO_DO]
        if waiting:
            sweep(
                [cell for own in cells.values() for cell in own],
                [cell for trial in waiting for cell in cells[trial.number]],
            )
        for trial in waiting:
            _judge(journal, folder, trial, cells[trial.number])
        if (found := best(journal.trials())) is not None:
            _write_best(plan, folder, found)
        if _waiting(journal):
            return journal.trials()


def tried(plan: SearchPlan, folder: Folder) -> list[Trial]:
    """All trials of a folder so far, by number; nothing is drawn.

    Raises:
        SettingsError: as of `search`.
    """
    return Journal(plan, folder).trials() if (folder.path / JOURNAL).exists() else []


def best(trials: Sequence[Trial]) -> Trial | None:
    """The one whose score is best; None if none has one. Of equal ones the first."""
    scored = [trial for trial in trials if trial.score is not None]
    return max(scored, key=lambda one: one.rank, default=None)


def _waiting(journal: Journal) -> list[Trial]:
    return [trial for trial in journal.trials() if trial.state == TO_DO]


def _refused(plan: SearchPlan, trial: Trial, refused: Check) -> str | None:
    """Why one of a trial's runs cannot be."""
    reasons = (refused(cell.keys) for cell in plan.cells(trial.number, trial.values))
    return next((why for why in reasons if why is not None), None)


def _try_again(journal: Journal, plan: SearchPlan, folder: Folder, refused: Check) -> None:
    """Open the trials that may end otherwise now: one whose runs all finished would not, nor one still refused."""
    for trial in journal.trials():
        cells = plan.cells(trial.number, trial.values)
        ended = trial.state not in (FAILED, REFUSED) or all(folder.finished(cell) for cell in cells)
        if not ended and _refused(plan, trial, refused) is None:
            journal.again(trial)


def _judge(journal: Journal, folder: Folder, trial: Trial, cells: Sequence[Cell]) -> None:
    """Tell how a trial ended; it stays open while a run of it neither finished nor failed, such as one stopped."""
    unfinished = [cell for cell in cells if not folder.finished(cell)]
    reasons = [why for cell in unfinished if (why := folder.failed(cell)) is not None]
    if len(reasons) < len(unfinished):
        return
    if reasons:
        journal.give_up(trial, FAILED, reasons[0])
    elif (score := _score(folder, cells)) is None:
        journal.give_up(trial, FAILED, "no device scored its last round, or not with a finite number")
    else:
        journal.tell(trial, score.mean, higher=score.higher)


def _score(folder: Folder, cells: Sequence[Cell]) -> Score | None:
    """The mean over a trial's runs of what their devices said in the last round; None if one has nothing to say."""
    found = []
    for cell in cells:
        rows = read_metrics(folder.run(cell))
        fairness = rows[-1].get("fairness") if rows else None
        if not fairness or not isfinite(fairness["mean"]):
            return None
        found.append((float(fairness["mean"]), METRICS[fairness.get("metric", "accuracy")][1]))
    return Score(mean=fmean(value for value, _ in found), higher=found[0][1])


def _write_best(plan: SearchPlan, folder: Folder, found: Trial) -> None:
    """The settings of the best trial so far, for `flotilla run -c`."""
    lines = [
        f"# Trial {found.number}: {found.score:.6g} on what devices kept out of their training, mean over devices.",
        "# The server's test set chose nothing of it.",
        *(f"{key} = {json.dumps(value)}" for key, value in {**plan.settings, **found.values}.items()),
    ]
    replace_text(folder.path / BEST, "\n".join(lines) + "\n")
