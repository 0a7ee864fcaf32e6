"""Looks for settings by trials (`[search]` in a sweep's file): Optuna draws, a sweep runs, devices score.

A trial's score is the mean over devices of what their tier's network does, in the last round, on the examples that they
kept out of their training. The server's test set chooses nothing, so it can still be what the found settings are judged
by, in runs of other seeds.

All that was drawn and scored is in `search.log` of the sweep's folder, Optuna's own journal; runs are cells of the
sweep. So a search that was stopped goes on: trials that were drawn and not scored are run first, from their last
checkpoint. What is drawn depends on the sampler's seed, the trial's number and the trials scored before it, and on no
clock: a search that was stopped ends as one that was not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

from flotilla.settings import SettingsError, Value, prepare
from flotilla.studies.plan import Cell
from flotilla.studies.search_plan import Range, SearchPlan
from flotilla.studies.sweep import Folder, Progress
from models.randomness import generator
from server_app.folder.files import replace_text
from server_app.folder.run_folder import read_metrics
from server_app.metrics import METRICS

JOURNAL, BEST = "search.log", "best.toml"
_NAME = "search"
_PLAN, _HIGHER = "plan", "higher"  # what the journal says the search is, and whether more is better

Sweep = Callable[[Sequence[Cell]], Progress]  # runs what is not finished of some cells


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One set of values.

    Attributes:
        number: from 0 on.
        values: by setting.
        score: mean over devices and seeds; None where a run failed or nobody scored.
        rank: more is better, whatever the metric.
    """

    number: int
    values: Mapping[str, Value]
    score: float | None
    rank: float


@dataclass(frozen=True, slots=True)
class Score:
    """What devices said of a trial, and whether more of it is better."""

    mean: float
    higher: bool


def check_corners(plan: SearchPlan, app_dir: Path, code: Sequence[Path] = ()) -> None:
    """Find out whether the ends of ranges can be run.

    Raises:
        SettingsError: names the values and what is allowed.
    """
    for values in plan.corners():
        pairs = [f"{key}={json.dumps(value)}" for key, value in {**plan.settings, **values}.items()]
        try:
            prepare(app_dir, pairs, code=code)
        except SettingsError as error:
            shown = ", ".join(f"{key}={value}" for key, value in values.items())
            raise SettingsError(f"{shown}: {error}") from None


def search(plan: SearchPlan, folder: Folder, sweep: Sweep) -> list[Trial]:
    """Run the trials that are not scored yet; the journal and `best.toml` are kept as it goes.

    Args:
        plan: of the search.
        folder: of the sweep.
        sweep: runs cells.

    Returns:
        All trials, by number.

    Raises:
        SettingsError: Optuna is not installed, or the folder has another search.
    """
    optuna = _optuna()
    study = _study(optuna, plan, folder)
    while True:
        # Those that are drawn together are drawn before any of them is scored, also where that was interrupted.
        drawn = len(study.get_trials(deepcopy=False))
        while drawn < plan.trials and (drawn % plan.together or not _open(study)):
            _draw(optuna, study, plan, drawn)
            drawn += 1
        waiting = _open(study)
        if not waiting:
            return _trials(study)
        sweep([cell for trial in study.get_trials() for cell in plan.cells(trial.number, trial.params)])
        for trial in waiting:
            score = _score(folder, plan.cells(trial.number, trial.params))
            if score is None:
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            else:
                study.set_user_attr(_HIGHER, score.higher)
                study.tell(trial.number, score.mean if score.higher else -score.mean)
        if (found := best(_trials(study))) is not None:
            _write_best(plan, folder, found)


def tried(plan: SearchPlan, folder: Folder) -> list[Trial]:
    """All trials of a folder so far, by number; nothing is drawn.

    Raises:
        SettingsError: as of `search`.
    """
    return _trials(_study(_optuna(), plan, folder)) if (folder.path / JOURNAL).exists() else []


def best(trials: Sequence[Trial]) -> Trial | None:
    """The one whose score is best; None if none has one. Of equal ones the first."""
    scored = [trial for trial in trials if trial.score is not None]
    return max(scored, key=lambda one: one.rank, default=None)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise SettingsError("[search] needs Optuna: pip install 'flotilla[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _study(optuna: Any, plan: SearchPlan, folder: Folder) -> Any:
    """The search of a folder: a new one, or the one that goes on.

    Raises:
        SettingsError: it is another one.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    backend = optuna.storages.journal.JournalFileBackend(str(folder.path / JOURNAL))
    storage = optuna.storages.JournalStorage(backend)
    study = optuna.create_study(storage=storage, study_name=_NAME, direction="maximize", load_if_exists=True)
    told = json.dumps([dict(plan.settings), {key: repr(one) for key, one in plan.space.items()}, list(plan.seeds)])
    told = f"{told}, {plan.together} together, seed {plan.seed}"
    if study.user_attrs.setdefault(_PLAN, told) != told:
        raise SettingsError(f"{folder.path} has another search: allowed is more trials, or another --folder")
    study.set_user_attr(_PLAN, told)
    return study


def _draw(optuna: Any, study: Any, plan: SearchPlan, number: int) -> None:
    """Draw the values of a trial, from those that are scored and a seed of its own."""
    seed = int(generator(plan.seed, number, "search", "sampler").integers(2**31))
    study.sampler = optuna.samplers.TPESampler(seed=seed)
    study.ask(fixed_distributions={key: _distribution(optuna, one) for key, one in plan.space.items()})


def _distribution(optuna: Any, one: Range | Sequence[Value]) -> Any:
    kinds = optuna.distributions
    if not isinstance(one, Range):
        return kinds.CategoricalDistribution(list(one))
    if one.whole:
        return kinds.IntDistribution(int(one.low), int(one.high), log=one.log, step=int(one.step or 1))
    return kinds.FloatDistribution(one.low, one.high, log=one.log, step=one.step)


def _open(study: Any) -> list[Any]:
    return [trial for trial in study.get_trials() if not trial.state.is_finished()]


def _trials(study: Any) -> list[Trial]:
    sign = 1.0 if study.user_attrs.get(_HIGHER, True) else -1.0
    return [
        Trial(
            number=trial.number,
            values=trial.params,
            score=None if trial.value is None else sign * trial.value,
            rank=-float("inf") if trial.value is None else trial.value,
        )
        for trial in study.get_trials()
    ]


def _score(folder: Folder, cells: Sequence[Cell]) -> Score | None:
    """The mean over a trial's runs of what their devices said in the last round; None if one has nothing to say."""
    found = []
    for cell in cells:
        rows = read_metrics(folder.run(cell)) if folder.finished(cell) else []
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
