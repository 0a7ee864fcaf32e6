"""What finished runs came to, read from their folders, and which of them are the same but for the seed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flotilla.settings import SettingsError
from flotilla.studies.plan import SEED
from flotilla.studies.sweep import RUNS, SWEEP
from server_app.folder.run_folder import CONFIG, SUMMARY, read_metrics
from server_app.folder.summary import Row
from server_app.metrics import value_of

# Settings that say how a run was carried out, not what it is.
_HOW = frozenset({SEED, "run-dir", "resume", "client-state", "data-root"})
_TRAFFIC = ("bytes_down", "bytes_up", "bytes_survey_down", "bytes_survey_up")


@dataclass(frozen=True, kw_only=True)
class TierResult:
    """What one tier's network came to, and what it costs.

    Attributes:
        last, best: score of the last evaluated round, and of the tier's best one.
        parameters, macs: of the network that a device of the tier uses.
        traffic: bytes that one device of it sends and gets in a round.
    """

    last: float
    best: float
    parameters: float
    macs: float
    traffic: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """One finished run.

    Attributes:
        row: what it is compared as.
        seed: of the run.
        folder: where it is.
        metric: name of its score; share: whether that is shown in percent; higher: whether more of it is better.
        last, best: score of the global network in the last evaluated round and in its best one.
        tiers: by name, widest first.
        clients: mean score of the worst tenth of the clients on their own data, where that was measured.
        curve: (round, score of the global network), of evaluated rounds.
        traffic: bytes both ways of the whole run.
        seconds: of its rounds.
        memory: bytes that the server held at most, where that was noted.
    """

    row: str
    seed: Any
    folder: Path
    metric: str
    share: bool
    higher: bool
    last: float
    best: float
    tiers: Mapping[str, TierResult]
    clients: float | None
    curve: Sequence[tuple[int, float]]
    traffic: float
    seconds: float
    memory: float | None

    @property
    def worst(self) -> float:
        """Score of the worst tier in the last evaluated round."""
        return (min if self.higher else max)(tier.last for tier in self.tiers.values())


def read_results(places: Sequence[Path]) -> tuple[list[Result], list[str]]:
    """The finished runs of some folders, each a run's or a sweep's, and a line for each that could not be used.

    Raises:
        SettingsError: no finished run is there, or they have different metrics.
    """
    found, skipped = [], []
    runs = {folder.resolve(): (row, folder) for place in places for row, folder in _runs_in(place)}  # each once
    for row, folder in _labelled(list(runs.values())):
        try:
            found.append(_read(row, folder))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            why = error.args[0] if isinstance(error, _NotFinished) else f"damaged: {type(error).__name__}: {error}"
            skipped.append(f"{folder}: {why}")
    if not found:
        where = ", ".join(map(str, places))
        told = f" ({skipped[0]})" if skipped else ""
        raise SettingsError(f"no finished run in {where}{told}: allowed are run folders and folders of sweeps")
    if len({(result.metric, result.share, result.higher) for result in found}) > 1:
        raise SettingsError("runs of different metrics: allowed are runs of one, see `metric`")
    return found, skipped


class _NotFinished(ValueError):
    """A run that has not ended as it should."""


def _runs_in(place: Path) -> list[tuple[str | None, Path]]:
    """(row, run folder) of a place; the row of a run by itself follows from its settings later."""
    try:
        told = json.loads((place / SWEEP).read_text(encoding="utf-8"))["runs"]
        return [(str(one["row"]), place / RUNS / str(one["run"])) for one in told]
    except FileNotFoundError:
        return [(None, place)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{place / SWEEP} is damaged: {error}") from None


def _labelled(runs: Sequence[tuple[str | None, Path]]) -> list[tuple[str, Path]]:
    """Rows for the runs that have none: their method, and the settings in which runs of that method differ."""
    configs = {folder: _config(folder) for row, folder in runs if row is None}
    methods = {folder: str(config.get("method", "run")) for folder, config in configs.items()}
    labels = {}
    for folder, config in configs.items():
        like = [other for place, other in configs.items() if methods[place] == methods[folder]]
        keys = sorted({key for other in like for key in other} - _HOW)
        differ = [key for key in keys if len({json.dumps(other.get(key)) for other in like}) > 1]
        labels[folder] = ", ".join([methods[folder], *(f"{key}={config.get(key)}" for key in differ)])
    return [(labels[folder] if row is None else row, folder) for row, folder in runs]


def _config(folder: Path) -> Mapping[str, Any]:
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _read(row: str, folder: Path) -> Result:
    if not (folder / CONFIG).is_file():
        raise _NotFinished("no run folder: it has no config.json")
    summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8")) if (folder / SUMMARY).is_file() else {}
    if summary.get("status") != "finished":
        raise _NotFinished(f"its status is {summary.get('status', 'not finished')}")
    rows, told = read_metrics(folder), summary.get("metric") or {"name": "accuracy", "share": True}
    last, best, own_best = summary.get("last") or {}, summary.get("best") or {}, summary.get("best_of_tier") or {}
    score, best_score = value_of(last), value_of(best)
    if score is None or best_score is None:
        raise _NotFinished("it was never evaluated")
    tiers = {}
    for name, tier in last["tiers"].items():
        if (own := value_of(tier)) is not None:  # statistics of a tier may be missing
            peak = value_of(own_best.get(name) or tier)
            tiers[name] = TierResult(
                last=own,
                best=own if peak is None else peak,
                parameters=float(tier.get("parameters") or 0),
                macs=float(tier.get("macs") or 0),
                traffic=float(tier.get("bytes_down") or 0) + float(tier.get("bytes_up") or 0),
            )
    if not tiers:
        raise _NotFinished("no tier of it was evaluated")
    return Result(
        row=row,
        seed=_config(folder).get(SEED),
        folder=folder,
        metric=str(told["name"]),
        share=bool(told["share"]),
        higher=told.get("better", "higher") == "higher",
        last=score,
        best=best_score,
        tiers=tiers,
        clients=_worst_clients(rows),
        curve=[(int(one["round"]), value) for one in rows if (value := value_of(one)) is not None],
        traffic=sum(float(one.get(name) or 0) for one in rows for name in _TRAFFIC),
        seconds=sum(float(value) for one in rows for value in (one.get("seconds") or {}).values()),
        memory=max((float(one["resident_bytes"]) for one in rows if one.get("resident_bytes")), default=None),
    )


def _worst_clients(rows: Iterable[Row]) -> float | None:
    found = [one["fairness"]["worst_10_percent_mean"] for one in rows if one.get("fairness")]
    return float(found[-1]) if found else None


def last_of(result: Result) -> float:
    """Score of the global network."""
    return result.last


def worst_of(result: Result) -> float:
    """Score of the worst tier."""
    return result.worst


def by_row(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The runs of every row, in the order in which rows came."""
    rows: dict[str, list[Result]] = {}
    for result in results:
        rows.setdefault(result.row, []).append(result)
    return rows
