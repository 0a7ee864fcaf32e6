"""HeteroFL in its authors' setting on Fashion-MNIST, ours beside the released code (docs/evidence.md).

Writes, once, what both programs read; runs ours, which goes on where it was stopped; and reads what the released code
printed, if its log lies beside: it is run by hand, from its own checkout. Makes the table of both. `--whole` is all of
the authors' rounds and examples, `--rows docs/evidence-setting.csv` the table from the numbers that are checked in.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from benchmarks.document import DOCS, replace_part, table
from benchmarks.experiments.setting.devices import write_devices
from benchmarks.experiments.setting.plan import LEVELS, PARTS, extent, settings
from benchmarks.experiments.setting.scores import (
    OURS,
    RELEASED,
    SAME_DEVICES,
    Run,
    Score,
    as_csv,
    by_run,
    of_ours,
    of_released,
    read_csv,
)
from benchmarks.experiments.setting.split import place_of, prepare
from benchmarks.experiments.setting.statistics import under_others
from benchmarks.experiments.sweeping import run
from benchmarks.task import Command, Options
from flotilla.settings import SettingsError
from flotilla.studies.plan import Cell
from flotilla.studies.sweep import Folder
from models.errors import SettingError
from server_app.folder.files import replace_text
from server_app.tier_records import GLOBAL

DOCUMENT = DOCS / "evidence.md"
NUMBERS = DOCS / "evidence-setting.csv"
PART = "evidence setting"  # of the document
# What the released code printed, in the part's folder: of a run that drew devices, and of one that had those of ours.
LOGS = {RELEASED: "reference.log", SAME_DEVICES: "reference-devices.log"}


def measured(part: str, seed: int, options: Options) -> list[Score]:
    """Both programs' scores; ours is run unless it is finished.

    Raises:
        SettingsError, SettingError: no data, a run that failed, a log of another run.
    """
    much = extent(part, whole=options.whole, rounds=options.rounds)
    place = place_of(options.root, part, much, seed)
    prepare(place, part, much, seed, options.data_root)
    cell = Cell(row=part, seed=seed, keys=settings(much, seed, str(place.folder)))
    ours = Folder(path=place.folder / "ours")
    run(ours, [cell], replace(options, processes=1))
    which = Run(part=part, seed=seed, examples=much.examples, rounds=much.rounds)
    write_devices(ours.run(cell), place, much, seed)
    released = {program: of_released(which, place.folder / log, program) for program, log in LOGS.items()}
    for program, scores in released.items():
        if not scores:
            print(f"{place.folder / LOGS[program]}: no finished run of the {program}", file=sys.stderr)
    own = of_ours(which, ours.run(cell), ours.log(cell))
    (last,) = (score for score in own if score.tier == GLOBAL and score.round == much.rounds)
    others = under_others(ours.run(cell), place.folder, seed)
    return [
        *own,
        *(replace(last, program=f"{OURS}, {name}", accuracy=one, cpu_seconds=None) for name, one in others.items()),
        *chain.from_iterable(released.values()),
    ]


def text(scores: Sequence[Score]) -> str:
    """A table of each part, and of each extent of it, the largest first, as Markdown, in percent."""
    kinds = sorted(
        {_kind(score) for score in scores}, key=lambda kind: (list(PARTS).index(kind[0]), *(-n for n in kind[1:]))
    )
    return "\n\n".join(_table([score for score in scores if _kind(score) == kind]) for kind in kinds)


def _kind(score: Score) -> tuple[str, int, int]:
    return score.part, score.examples, score.rounds


def _table(scores: Sequence[Score]) -> str:
    rounds = sorted({score.round for score in scores})
    one = scores[0]
    heads = ["program", "seed", *(f"round {number}" for number in rounds), "best", *LEVELS, "CPU s"]
    lines = [_line(own, rounds) for own in by_run(scores)]
    about = f"**{PARTS[one.part].title}**: {one.rounds} rounds, {one.examples} examples a device; accuracies in %"
    return f"{about}\n\n{table(heads, lines, markdown=True)}"


def _line(scores: Sequence[Score], rounds: Sequence[int]) -> list[str]:
    found = {(score.tier, score.round): f"{100 * score.accuracy:.2f}" for score in scores}
    whole = [score.accuracy for score in scores if score.tier == GLOBAL]
    return [
        scores[0].program,
        str(scores[0].seed),
        *(found.get((GLOBAL, number), "–") for number in rounds),
        f"{100 * max(whole):.2f}" if len(whole) == len(rounds) else "–",
        *(found.get((level, rounds[-1]), "–") for level in LEVELS),
        "–" if scores[0].cpu_seconds is None else f"{scores[0].cpu_seconds:.0f}",
    ]


def _run(options: Options) -> int:
    """Run, print, and write document and numbers, beside those of before; with `--rows` without running."""
    try:
        if options.rows is not None:
            scores = read_csv(options.rows)
        else:
            scores = [
                score for part in options.parts for seed in options.seeds for score in measured(part, seed, options)
            ]
    except (SettingsError, SettingError) as error:
        print(f"evidence-setting: {error}", file=sys.stderr)
        return 2
    print(text(scores))
    if options.write:
        run_now = {(_kind(score), score.seed) for score in scores}
        scores = [*(one for one in read_csv(NUMBERS) if (_kind(one), one.seed) not in run_now), *scores]
        replace_part(DOCUMENT, PART, text(scores))
        replace_text(NUMBERS, as_csv(scores))
    return 0


TASK = Command(
    _run,
    parts=tuple(PARTS),
    defaults={
        "seeds": [1],
        "rounds": 0,
        "whole": False,
        "data_root": "",
        "root": Path(),
        "rows": None,
        "write": False,
    },
)
