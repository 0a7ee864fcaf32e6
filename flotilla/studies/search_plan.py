"""A search's file: which settings are looked for, and in which range.

[settings]                 # of every run
dataset = "digits"

[search]
trials = 20                # sets of values that are tried
together = 2               # of these, how many are drawn before any of them is scored; 1 learns most from each
seed = 1                   # of the sampler
learning-rate = { low = 0.01, high = 1.0, log = true }
batch-size = { low = 8, high = 64, step = 8 }
momentum = [0.0, 0.9]      # one of these

[grid]                     # a trial is scored by its mean over seeds
seed = [1, 2]
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flotilla.settings import SettingsError, Value, flatten
from flotilla.studies.plan import OURS, SEED, Cell, grid_of

SEARCH = "search"
_WORDS = {"trials": 20, "together": 1, "seed": 1}
_ALLOWED = "a list of values, or { low = 0.01, high = 1.0 }, with log = true or a step, such as step = 0.01"
# What acts on the scores of the server's test set while a run goes on, and where it doesn't: two end the run, and one
# takes it back to an earlier round.
_BY_TEST: Mapping[str, Value] = {"patience": 0, "target": "", "guard-rollbacks": 0}
# Without these nobody scores.
_BY_DEVICES = ("fraction-evaluate", "local-test-fraction")


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Numbers from `low` to `high`; whole ones if both are.

    Attributes:
        low, high: ends, which belong to it.
        log: whether they are drawn by their logarithm.
        step: between two of them; None is any.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def whole(self) -> bool:
        """Whether it is one of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """What a search's file says.

    Attributes:
        settings: of every run; with those that would act on the test set's scores, off.
        space: what is looked for: a range, or what it can be.
        seeds: over which a trial is scored; one that is None is the run's own.
        trials: sets of values that are tried.
        together: how many are drawn before any of them is scored.
        seed: of the sampler.
    """

    settings: Mapping[str, Value]
    space: Mapping[str, Range | Sequence[Value]]
    seeds: Sequence[Value | None]
    trials: int
    together: int
    seed: int

    def cells(self, number: int, values: Mapping[str, Value]) -> list[Cell]:
        """The runs of a trial, one for each seed."""
        shown = ", ".join(f"{key}={value}" for key, value in values.items())
        keys = {**self.settings, **values}
        return [
            Cell(row=f"trial {number}, {shown}", seed=seed, keys=keys if seed is None else {**keys, SEED: seed})
            for seed in self.seeds
        ]

    def corners(self) -> Iterator[dict[str, Value]]:
        """Ends of ranges, values of lists and seeds, each once: what is checked before anything starts."""
        first = {key: one.low if isinstance(one, Range) else one[0] for key, one in self.space.items()}
        seeds: list[dict[str, Value]] = [{} if seed is None else {SEED: seed} for seed in self.seeds]
        for seed in seeds:
            yield {**first, **seed}
        for key, one in self.space.items():
            for value in [one.high] if isinstance(one, Range) else one[1:]:
                yield {**first, **seeds[0], key: value}


def read_search(file: Path) -> SearchPlan | None:
    """What a file says of a search; None if it is a sweep's.

    Raises:
        SettingsError: names what is wrong, and what is allowed.
    """
    try:
        told = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"cannot read {file}: {error}") from None
    if SEARCH not in told:
        return None
    if unknown := [
        name for name in told if name not in ("settings", "grid", SEARCH) or not isinstance(told[name], dict)
    ]:
        raise SettingsError(f"{file}: {unknown[0]}: allowed beside [search] are [settings], and [grid] with seed alone")
    grid = told.get("grid")
    if grid is not None and set(grid) != {SEED}:
        raise SettingsError(f"{file}: [grid]: allowed beside [search] is seed alone, a list such as [1, 2]")
    seeds: Sequence[Value | None] = [None] if grid is None else grid_of(file, grid)[SEED]
    words = {name: _count(file, name, told[SEARCH].get(name, usual)) for name, usual in _WORDS.items()}
    space = {key: _space(file, key, one) for key, one in told[SEARCH].items() if key not in _WORDS}
    if not space:
        raise SettingsError(f"{file}: [search]: allowed is at least one setting, {_ALLOWED}")
    given = flatten(told.get("settings", {}))
    if grid is not None and SEED in given:
        raise SettingsError(f"{file}: {SEED} stands in [grid] and in [settings]: allowed is one of them")
    settings = _scored_by_devices(file, given, space)
    for key in (*settings, *space):
        if key in OURS or (key in settings and key in space):
            raise SettingsError(
                f"{file}: {key}: allowed is one of [settings] and [search], and nothing that it sets itself"
            )
    return SearchPlan(settings=settings, space=space, seeds=seeds, **words)


def _scored_by_devices(
    file: Path, settings: Mapping[str, Value], space: Mapping[str, Range | Sequence[Value]]
) -> dict[str, Value]:
    """With every device scoring on what it kept out of its training; nothing acts on the server's test set."""
    for key, off in _BY_TEST.items():
        if key in space:
            raise SettingsError(f"{file}: [search] {key}: a search looks at no test set, and this does")
        if settings.get(key, off) != off:
            raise SettingsError(
                f"{file}: {key} = {settings[key]!r}: allowed is {off!r}: a search looks at no test set, and this does"
            )
    for key in _BY_DEVICES:
        one = space.get(key, [settings.get(key, 1.0)])
        if 0 in ((one.low,) if isinstance(one, Range) else one):
            raise SettingsError(
                f"{file}: {key} = 0: allowed is more than 0: trials are scored by devices' own examples"
            )
    return {"fraction-evaluate": 1.0, **settings, **_BY_TEST}  # said, because a default, or an app's own, may be on


def _count(file: Path, name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SettingsError(f"{file}: [search] {name} = {value!r}: allowed is a whole number of at least 1")
    return value


def _space(file: Path, key: str, told: Any) -> Range | Sequence[Value]:
    wrong = SettingsError(f"{file}: [search] {key} = {told!r}: allowed is {_ALLOWED}")
    if isinstance(told, list):
        if any(isinstance(value, dict) for value in told):
            raise wrong
        values = [flatten({key: value})[key] for value in told]
        if not values or len(set(map(repr, values))) < len(values):
            raise wrong
        return values
    if not isinstance(told, dict) or not {"low", "high"} <= set(told) <= {"low", "high", "log", "step"}:
        raise wrong
    numbers = [told[name] for name in ("low", "high", "step") if name in told]
    log = told.get("log", False)
    if any(isinstance(one, bool) or not isinstance(one, int | float) for one in numbers) or not isinstance(log, bool):
        raise wrong
    low, high, step = told["low"], told["high"], told.get("step")
    if low >= high or (log and (low <= 0 or step is not None)) or (step is not None and step <= 0):
        raise wrong
    found = Range(low=low, high=high, log=log, step=step)
    if found.whole and isinstance(step, float):
        raise wrong
    return found
