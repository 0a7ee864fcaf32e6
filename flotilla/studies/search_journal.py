"""What a search drew and how each trial ended, in Optuna's journal (`search.log` of the sweep's folder).

A trial that is tried again is a further entry, which names the first of its trial: Optuna's entries are final. So
entries have numbers of their own, and a trial's is its place among those that were drawn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flotilla.settings import SettingsError, Value
from flotilla.studies.search_plan import Range, SearchPlan
from flotilla.studies.sweep import Folder
from models.randomness import generator

JOURNAL = "search.log"
TO_DO, SCORED, FAILED, REFUSED = "to do", "scored", "failed", "refused"
_NAME = "search"
_PLAN, _HIGHER = "plan", "higher"  # what the journal says the search is, and whether more is better
_AGAIN = "again"  # of an entry: the trial that it tries again


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One set of values.

    Attributes:
        number: from 0 on.
        values: by setting.
        state: `TO_DO`, `SCORED`, `FAILED`, or `REFUSED`: it cannot be run.
        why: it failed or is refused; "" otherwise.
        score: mean over devices and seeds; None where it is not scored.
        rank: more is better, whatever the metric.
    """

    number: int
    values: Mapping[str, Value]
    state: str
    why: str
    score: float | None
    rank: float


class Journal:
    """The search of a folder: a new one, or the one that goes on.

    Args:
        plan: of the search.
        folder: of the sweep.

    Raises:
        SettingsError: Optuna is not installed, or the folder has another search.
    """

    def __init__(self, plan: SearchPlan, folder: Folder) -> None:
        self._plan, self._optuna = plan, _optuna()
        folder.path.mkdir(parents=True, exist_ok=True)
        journal = self._optuna.storages.journal
        storage = self._optuna.storages.JournalStorage(journal.JournalFileBackend(str(folder.path / JOURNAL)))
        self._study = self._optuna.create_study(
            storage=storage, study_name=_NAME, direction="maximize", load_if_exists=True
        )
        told = json.dumps([dict(plan.settings), {key: repr(one) for key, one in plan.space.items()}, list(plan.seeds)])
        told = f"{told}, {plan.together} together, seed {plan.seed}"
        if self._study.user_attrs.setdefault(_PLAN, told) != told:
            raise SettingsError(f"{folder.path} has another search: allowed is more trials, or another --folder")
        self._study.set_user_attr(_PLAN, told)

    def trials(self) -> list[Trial]:
        """All trials so far, by number."""
        return [self._trial(number, entry) for number, entry in enumerate(self._entries())]

    def draw(self, number: int) -> None:
        """Draw the values of the next trial, from those that are scored and a seed of its own."""
        seed = int(generator(self._plan.seed, number, "search", "sampler").integers(2**31))
        self._study.sampler = self._optuna.samplers.TPESampler(seed=seed)
        self._study.ask(fixed_distributions=self._distributions())

    def again(self, trial: Trial) -> None:
        """Open a trial that failed or was refused, with the same values."""
        self._study.add_trial(
            self._optuna.trial.create_trial(
                state=self._optuna.trial.TrialState.RUNNING,
                params=dict(trial.values),
                distributions=self._distributions(),
                user_attrs={_AGAIN: trial.number},
            )
        )

    def tell(self, trial: Trial, mean: float, *, higher: bool) -> None:
        """A trial's score, and whether more is better."""
        self._study.set_user_attr(_HIGHER, higher)
        self._study.tell(self._entries()[trial.number].number, mean if higher else -mean)

    def give_up(self, trial: Trial, state: str, why: str) -> None:
        """A trial has no score: `FAILED` or `REFUSED`."""
        entry = self._entries()[trial.number].number
        self._study.set_user_attr(_why(entry), [state, why])
        self._study.tell(entry, state=self._optuna.trial.TrialState.FAIL)

    def _entries(self) -> list[Any]:
        """The last entry of each trial, by number."""
        found: list[Any] = []
        for entry in self._study.get_trials(deepcopy=False):
            if (number := entry.user_attrs.get(_AGAIN)) is not None:
                found[number] = entry
            elif entry.params.keys() == self._plan.space.keys():  # else it was killed while it was drawn
                found.append(entry)
        return found

    def _trial(self, number: int, entry: Any) -> Trial:
        sign = 1.0 if self._study.user_attrs.get(_HIGHER, True) else -1.0
        state, why = SCORED, ""
        if not entry.state.is_finished():
            state = TO_DO
        elif entry.value is None:
            state, why = self._study.user_attrs.get(_why(entry.number), [FAILED, ""])
        return Trial(
            number=number,
            values=entry.params,
            state=state,
            why=why,
            score=None if entry.value is None else sign * entry.value,
            rank=-float("inf") if entry.value is None else entry.value,
        )

    def _distributions(self) -> dict[str, Any]:
        return {key: _distribution(self._optuna, one) for key, one in self._plan.space.items()}


def _why(entry: int) -> str:
    return f"why {entry}"


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise SettingsError("[search] needs Optuna: pip install 'flotilla[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _distribution(optuna: Any, one: Range | Sequence[Value]) -> Any:
    kinds = optuna.distributions
    if not isinstance(one, Range):
        return kinds.CategoricalDistribution(list(one))
    if one.whole:
        return kinds.IntDistribution(int(one.low), int(one.high), log=one.log, step=int(one.step or 1))
    return kinds.FloatDistribution(one.low, one.high, log=one.log, step=one.step)
