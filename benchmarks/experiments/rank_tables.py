"""The tables of rules for unlike ranks, from run folders."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

from benchmarks.document import table
from benchmarks.experiments.runs import spread
from flotilla.studies.one_run import PROCESSOR
from server_app.folder.run_folder import HOLDINGS, SUMMARY, read_metrics

_SECONDS = re.compile(re.escape(PROCESSOR).replace(r"\{\}", r"([\d.]+)"))


@dataclass(frozen=True, kw_only=True)
class Place:
    """A finished run.

    Attributes:
        part: data and split, such as "images-iid".
        method: the row.
        seed: of the run.
        run: its folder.
        log: what it said.
    """

    part: str
    method: str
    seed: int
    run: Path
    log: Path

    @cached_property
    def last(self) -> dict[str, Any]:
        """What the last round came to."""
        found: dict[str, Any] = json.loads((self.run / SUMMARY).read_text(encoding="utf-8"))["last"]
        return found

    @cached_property
    def tiers(self) -> dict[str, float]:
        """Accuracy by tier, largest rank first."""
        return {name: float(tier["accuracy"]) for name, tier in self.last["tiers"].items()}

    @property
    def accuracy(self) -> float:
        """Of the global network."""
        return float(self.last["accuracy"])

    @property
    def worst(self) -> float:
        """The least of the tiers'."""
        return min(self.tiers.values())

    @cached_property
    def traffic(self) -> tuple[float, float]:
        """Bytes of all rounds, down and up."""
        rows = read_metrics(self.run)
        down, up = (sum(float(row[name]) for row in rows) for name in ("bytes_down", "bytes_up"))
        return down, up

    @cached_property
    def memory(self) -> dict[str, float]:
        """Bytes to train the tier's part, by the cost model."""
        told = json.loads((self.run / HOLDINGS).read_text(encoding="utf-8"))["network"]["tiers"]
        return {name: float(tier["memory"]) for name, tier in told.items()}

    @cached_property
    def seconds(self) -> float:
        """Of the processor, in the attempt that finished it."""
        return sum(map(float, _SECONDS.findall(self.log.read_text(encoding="utf-8"))))


def tables(runs: Sequence[Place]) -> str:
    """A table a part, as Markdown: accuracies of the last round in percent, and costs."""
    blocks = []
    for part in dict.fromkeys(run.part for run in runs):
        own = [run for run in runs if run.part == part]
        names = list(dict.fromkeys(name for run in own for name in run.tiers))
        seeds = ", ".join(str(seed) for seed in sorted({run.seed for run in own}))
        heads = ["method", "runs", *names, "global", "worst tier", "MB down / up", *_memory_heads(names), "CPU s"]
        lines = [
            _line(method, [run for run in own if run.method == method], names)
            for method in dict.fromkeys(run.method for run in own)
        ]
        blocks.append(f"**{part}**, seeds {seeds}\n\n{table(heads, lines, markdown=True)}")
    return "\n\n".join(blocks)


def _memory_heads(names: Sequence[str]) -> list[str]:
    return [f"peak MB, {names[0]} / {names[-1]}"]


def _line(method: str, runs: Sequence[Place], names: Sequence[str]) -> list[str]:
    def mean(of: Callable[[Place], float], scale: float, digits: int = 1) -> str:
        return f"{scale * sum(map(of, runs)) / len(runs):.{digits}f}"

    def tier(name: str) -> str:
        own = [run.tiers[name] for run in runs if name in run.tiers]
        return spread(own) if own else "–"

    ends = [name for name in (names[0], names[-1]) if all(name in run.memory for run in runs)]
    return [
        method,
        str(len(runs)),
        *map(tier, names),
        spread(run.accuracy for run in runs),
        spread(run.worst for run in runs),
        f"{mean(lambda run: run.traffic[0], 1e-6)} / {mean(lambda run: run.traffic[1], 1e-6)}",
        " / ".join(mean(lambda run, name=name: run.memory[name], 1e-6, 2) for name in ends),  # type: ignore[misc]
        mean(lambda run: run.seconds, 1.0),
    ]


def as_csv(runs: Sequence[Place]) -> str:
    """A line for every run and tier, the global network as tier "global"; numbers as they are."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["part", "method", "seed", "tier", "accuracy", "run_bytes_down", "run_bytes_up", "peak_bytes", "cpu_seconds"]
    )
    for run in runs:
        for name, accuracy in {"global": run.accuracy, **run.tiers}.items():
            peak = f"{run.memory[name]:.0f}" if name in run.memory else ""
            costs = [*(f"{size:.0f}" for size in run.traffic), peak, f"{run.seconds:.2f}"]
            writer.writerow([run.part, run.method, run.seed, name, f"{accuracy:.5f}", *costs])
    return text.getvalue()
