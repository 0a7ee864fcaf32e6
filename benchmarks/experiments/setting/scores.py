"""What both programs came to, as lines of a CSV: accuracy of a network in an evaluated round."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from io import StringIO
from pathlib import Path

from benchmarks.experiments.evidence.rows import lines_of, torch_of
from benchmarks.experiments.rank_tables import Place
from flotilla.settings import SettingsError
from server_app.folder.run_folder import read_metrics
from server_app.folder.summary import Row
from server_app.tier_records import GLOBAL

OURS, RELEASED = "ours", "released code"
SAME_DEVICES = f"{RELEASED}, devices of ours"
_TEST = re.compile(r"Test Epoch: (\d+)\(.*\bGlobal-Accuracy: ([\d.]+)")
_SECONDS = re.compile(r"^(?:user|sys) ([\d.]+)$", re.MULTILINE)  # as `time -p` says them

_BEGAN = "Experiment: "  # what the released code says whenever it begins or goes on
_WENT_ON = "resuming after round"  # what ours says


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A network in an evaluated round.

    Attributes:
        part: of the plan.
        program: `OURS`, `RELEASED`, the latter with the devices that ours drew, or ours with other statistics of static
            batch norm.
        seed: of the run.
        examples: of a device, in the mean.
        rounds: of the run.
        tier: whose network; the whole one is "global".
        round: after which.
        accuracy: on the test set, from 0 to 1.
        cpu_seconds: of the whole run; None where it went on after a stop, or a network of it was only scored.
        torch: version that it ran with; "" is not known.
    """

    part: str
    program: str
    seed: int
    examples: int
    rounds: int
    tier: str
    round: int
    accuracy: float
    cpu_seconds: float | None
    torch: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Which run it is: part, seed, examples and rounds, as in `Score`."""

    part: str
    seed: int
    examples: int
    rounds: int


def of_ours(run: Run, folder: Path, log: Path) -> list[Score]:
    """Those of a finished run of ours.

    Args:
        run: which it is.
        folder: of the run.
        log: what it said.

    Raises:
        SettingsError: it is damaged.
    """
    place = Place(part=run.part, method="heterofl", seed=run.seed, run=folder, log=log)
    torch = torch_of(folder)
    seconds = None if _WENT_ON in log.read_text(encoding="utf-8") else round(place.seconds, 1)

    def score(row: Row, tier: str, accuracy: float) -> Score:
        return Score(
            **asdict(run),
            program=OURS,
            tier=tier,
            round=row["round"],
            accuracy=accuracy,
            cpu_seconds=seconds,
            torch=torch,
        )

    evaluated = [row for row in read_metrics(folder) if "accuracy" in row]
    return [
        score(row, tier, told["accuracy"]) for row in evaluated for tier, told in [(GLOBAL, row), *row["tiers"].items()]
    ]


def of_released(run: Run, log: Path, program: str = RELEASED) -> list[Score]:
    """Those of a run of the released code, from what it printed under `time -p`; none unless it is finished.

    What it printed before it was stopped and when it went on stand one after the other.

    Args:
        run: which it is.
        log: what it printed.
        program: what it is called.

    Raises:
        SettingsError: it was another run.
    """
    if not log.exists():
        return []
    text = log.read_text(encoding="utf-8", errors="replace")
    seconds, found = _SECONDS.findall(text), _TEST.findall(text)
    if not seconds or not found:
        return []
    if int(found[-1][0]) != run.rounds:
        raise SettingsError(f"{log} ends with round {found[-1][0]}: allowed is a run of {run.rounds} rounds")
    return [
        Score(
            **asdict(run),
            program=program,
            tier=GLOBAL,
            round=int(number),
            accuracy=round(float(percent) / 100, 6),
            cpu_seconds=round(sum(map(float, seconds)), 1) if text.count(_BEGAN) == 1 else None,
            torch="",
        )
        for number, percent in found
    ]


def as_csv(scores: Iterable[Score]) -> str:
    """All lines, with a head."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(Score)])
    writer.writerows(asdict(score).values() for score in scores)
    return text.getvalue()


def read_csv(file: Path) -> list[Score]:
    """The lines of a file that `as_csv` wrote.

    Raises:
        SettingsError: it cannot be read, or is no such file.
    """
    return lines_of(file, _score)


def _score(line: dict[str, str]) -> Score:
    return Score(
        part=line["part"],
        program=line["program"],
        seed=int(line["seed"]),
        examples=int(line["examples"]),
        rounds=int(line["rounds"]),
        tier=line["tier"],
        round=int(line["round"]),
        accuracy=float(line["accuracy"]),
        cpu_seconds=float(line["cpu_seconds"]) if line["cpu_seconds"] else None,
        torch=line["torch"],
    )


def by_run(scores: Sequence[Score]) -> list[list[Score]]:
    """Those of each run together, in their order."""
    keys = dict.fromkeys((score.program, score.seed) for score in scores)
    return [[score for score in scores if (score.program, score.seed) == key] for key in keys]
