"""Whether measured tiers beat fixed proportions in time to accuracy.

HeteroFL on digits, a hundred virtual devices of the bundled fleet, twenty of them a round. Time is the fleet's: the
same devices, draws and first state in every run of a seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from time import process_time

import torch

from benchmarks.document import DOCS, replace_part, table
from benchmarks.experiments.plot import picture, plain
from benchmarks.experiments.runs import Keys, metrics_of
from benchmarks.task import Command, Options
from protocol import Scalar, keep_large_buffers

DOCUMENT = DOCS / "fleet.md"
PICTURE = DOCUMENT.with_suffix(".svg")

COMMON: Keys = {
    "method": "heterofl",
    "dataset": "digits",
    "model": "cnn",
    "widths": "16, 32, 64, 128",
    "norm": "group",
    "tiers": "a:1, b:1/2, c:1/4",
    "num-clients": 100,
    "fraction-train": 0.2,
    "slice-at": "server",
    "num-server-rounds": 25,
    "learning-rate-schedule": "constant",
    "learning-rate": 0.1,
    "local-epochs": 5,
    "simulated-devices": "mixed",
    "quorum": 0.1,
    "checkpoint-every": 1000,
    "device": "cpu",
}
SHORT, LONG = 2.5, 20.0  # seconds; every device can meet the second in every tier, unless it is lost
FIXED, WAITING, MEASURED, SAME = (
    f"fixed, {SHORT:g} s",
    f"fixed, {LONG:g} s",
    f"measured, {SHORT:g} s",
    f"measured shares at random, {SHORT:g} s",
)
TARGETS = (0.7, 0.8, 0.9)
_COLOURS = {WAITING: "#b0b0b0", FIXED: "#6baed6", SAME: "#f0a030", MEASURED: "#08306b"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How a run went.

    Attributes:
        seconds: virtual ones since the run began, by round.
        accuracy: of the global network.
        smallest: of the smallest tier's network.
        counted: share of the chosen devices whose reply counted.
        tiers: how many devices were chosen in each tier, over all rounds but the first ten, in which tiers settle.
    """

    seconds: list[float]
    accuracy: list[float]
    smallest: list[float]
    counted: float
    tiers: Counter[str]

    def until(self, target: float) -> float | None:
        """Seconds until the global network first is as accurate; None if it never is."""
        return next((s for s, a in zip(self.seconds, self.accuracy, strict=True) if a >= target), None)


def run(keys: Mapping[str, Scalar]) -> Course:
    """Run a configuration in this process."""
    rows = metrics_of({**COMMON, **keys})
    tiers: Counter[str] = Counter()
    for row in rows[10:]:
        tiers.update(row["selected_tiers"])
    return Course(
        seconds=[row["virtual_elapsed"] for row in rows],
        accuracy=[row["accuracy"] for row in rows],
        smallest=[row["tiers"]["c"]["accuracy"] for row in rows],
        counted=sum(row["accepted"] for row in rows) / sum(len(row["selected"]) for row in rows),
        tiers=tiers,
    )


def compare(seeds: Sequence[int], rounds: int) -> dict[str, list[Course]]:
    """Run everything, seed by seed."""
    found: dict[str, list[Course]] = {name: [] for name in (WAITING, FIXED, SAME, MEASURED)}
    for seed in seeds:
        common: Keys = {"seed": seed, "num-server-rounds": rounds}
        began = process_time()
        measured = run({**common, "tier-assignment": "measured", "deadline": SHORT})
        shares = ", ".join(str(measured.tiers[name]) for name in "abc")
        found[MEASURED].append(measured)
        found[SAME].append(run({**common, "tier-proportions": shares, "deadline": SHORT}))
        found[FIXED].append(run({**common, "deadline": SHORT}))
        found[WAITING].append(run({**common, "deadline": LONG}))
        print(f"seed {seed}: {process_time() - began:.0f} CPU s; measured tiers a to c: {shares}", flush=True)
    return found


def rows_of(found: Mapping[str, Sequence[Course]], first: str = "tiers, deadline") -> str:
    """The table; `first` is above its first column."""
    heads = [
        first,
        *(f"{100 * target:.0f} % after" for target in TARGETS),
        "seconds a round",
        "replies that count",
        "global, last",
        "smallest, last",
    ]
    rows = []
    for name, courses in found.items():
        until = [_until([course.until(target) for course in courses]) for target in TARGETS]
        rows.append(
            [
                name,
                *until,
                f"{mean(c.seconds[-1] / len(c.seconds) for c in courses):.2f}",
                f"{100 * mean(c.counted for c in courses):.0f} %",
                _spread([100 * c.accuracy[-1] for c in courses]),
                _spread([100 * c.smallest[-1] for c in courses]),
            ]
        )
    return table(heads, rows, markdown=True)


def text(found: Mapping[str, Sequence[Course]]) -> str:
    """The table, with what it is about."""
    seeds, rounds = len(found[MEASURED]), len(found[MEASURED][0].seconds)
    return (
        f"{seeds} seeds, {rounds} rounds each; virtual seconds (mean, least to most over the seeds) until the global "
        f"network's test accuracy is first reached; accuracies in % after the last round.\n\n"
        + rows_of(found)
        + f"\n\n![accuracy over virtual time]({PICTURE.name})"
    )


def _until(seconds: Sequence[float | None]) -> str:
    known = [one for one in seconds if one is not None]
    if not known:
        return "never"
    shown = f"{mean(known):.0f} ({min(known):.0f} to {max(known):.0f})"
    return shown if len(known) == len(seconds) else f"{shown}, {len(seconds) - len(known)} of {len(seconds)} never"


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def draw(found: Mapping[str, Sequence[Course]], file: Path = PICTURE, colours: Mapping[str, str] = _COLOURS) -> None:
    """Draw accuracy over virtual time: a line a seed."""
    with picture(file, (7.2, 3.4)) as axes:
        for name, courses in found.items():
            for i, course in enumerate(courses):
                axes.plot(
                    course.seconds,
                    [100 * one for one in course.accuracy],
                    color=colours[name],
                    linewidth=1.2,
                    label=name if i == 0 else None,
                )
        axes.set_xscale("log")
        axes.set_xlabel("virtual seconds since the run began")
        axes.set_ylabel("test accuracy of the global network, %")
        axes.legend(frameon=False, loc="lower right")
        plain(axes)


def _run(options: Options) -> int:
    """Run, print, and write the table and the picture."""
    keep_large_buffers()
    torch.set_num_threads(1)
    found = compare(options.seeds, options.rounds)
    print(text(found))
    if options.write:
        replace_part(DOCUMENT, "fleet", text(found))
        draw(found)
    return 0


TASK = Command(_run, defaults={"seeds": [1, 2, 3], "rounds": 25, "write": False})
