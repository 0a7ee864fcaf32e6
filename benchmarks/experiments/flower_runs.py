"""Everything that can be configured, once, through Flower itself.

Each row is a `flotilla run` from the command to the prompt: a SuperLink, Ray, the bundle that Flower ships. The rows
come from the registries, so a new method, selector, codec, aggregation or clustering has its row the moment it exists.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.document import DOCS, ROOT, replace_part, table
from benchmarks.task import Command, Options
from protocol import Scalar
from protocol.codecs import CODECS
from protocol.codecs.settings import ENTROPIES
from strategies import METHODS
from strategies.aggregation import AGGREGATIONS
from strategies.clustering.options import CLUSTERINGS
from strategies.methods.ranks.base import RankMethod
from strategies.selection import SELECTORS
from strategies.settings import DOWNLINK

DOCUMENT = DOCS / "runs.md"
Keys = Mapping[str, Scalar]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows that share what is not said of them.

    Attributes:
        common: run settings of every row.
        rows: what a row is called → its own settings.
        limit: seconds that a row may take; None where it is only reported.
    """

    common: Keys
    rows: Mapping[str, Keys]
    limit: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A run that has ended.

    Attributes:
        code: exit code of the command.
        seconds: from the command to the prompt.
        last: of summary.json; {} if there is none.
        said: the end of its output.
    """

    code: int
    seconds: float
    last: Mapping[str, Any] = field(default_factory=dict)
    said: str = ""

    def cells(self) -> list[str]:
        """Write it as text."""
        accuracies = (100 * tier["accuracy"] for tier in self.last.get("tiers", {}).values())
        whole = f"{100 * self.last['accuracy']:.1f}" if self.last else "-"
        return [str(self.code), f"{self.seconds:.0f}", whole, " / ".join(f"{a:.1f}" for a in accuracies)]


# Of q-FedSGD's gradient there is one a round, and nothing else in the step.
_ONE_STEP: Keys = {"local-steps": 1, "momentum": 0.0, "clip-norm": 0.0, "weight-decay": 0.0}
_HAR: Keys = {"dataset": "har", "model": "cnn1d", "partition": "natural", "num-clients": 21, "num-server-rounds": 5}
_SST2: Keys = {
    "dataset": "sst2",
    "model": "transformer",
    "widths": "64, 128",
    "blocks": "4",
    "vocabulary-size": 4000,
    "sequence-length": 32,
    "tiers": "a:1@4, b:1@3, c:1@1",
    "learning-rate": 0.05,
}


def _codecs() -> Iterator[tuple[str, Keys]]:
    for name in CODECS:
        yield f"codec = {name}", {"codec": name}
    for entropy in ENTROPIES[1:]:
        yield f"codec = qsgd, {entropy}", {"codec": "qsgd", "codec-entropy": entropy}
    for name in DOWNLINK[1:]:
        yield f"codec-down = {name}", {"codec-down": name}


OF_RANKS = [name for name, method in METHODS.items() if issubclass(method, RankMethod)]
_RANKS: Keys = {"model": "mlp", "adapter": "lora:16", "tiers": "a:16, b:8, c:4, d:2, e:1"}

TABLES = {
    "digits": Table(
        {}, {name: {"method": name, **(_RANKS if name in OF_RANKS else {})} for name in METHODS}, limit=120.0
    ),
    "larger": Table(
        {"num-clients": 10, "local-steps": 30, "batch-size": 32, "num-server-rounds": 3},
        {
            **{
                f"{name}, Fashion-MNIST": {"method": name, "dataset": "fashion-mnist", "widths": "16, 32, 64, 128"}
                for name in METHODS
                if name not in OF_RANKS
            },
            "inclusivefl, SST-2": {"method": "inclusivefl", **_SST2},
            "heterofl, HAR by subject": {"method": "heterofl", **_HAR},
            "depthfl, HAR by subject": {"method": "depthfl", **_HAR},
        },
    ),
    "choices": Table(
        {"model": "mlp", "widths": "64, 32", "num-server-rounds": 3, "fraction-train": 0.5},
        {
            **{f"selection = {name}": {"selection": name} for name in SELECTORS},
            **dict(_codecs()),
            **{
                f"aggregation = {name}": {"aggregation": name, **(_ONE_STEP if name == "q-fedsgd" else {})}
                for name in AGGREGATIONS
            },
            **{f"clustering = {name}": {"clustering": name} for name in CLUSTERINGS},
        },
    ),
}


def run(keys: Keys, patience: float = 600.0) -> Ended:
    """Run a configuration with `flotilla run`; a run that outlasts `patience` seconds is stopped."""
    with tempfile.TemporaryDirectory(prefix="flower-runs-") as folder:
        config = " ".join(f"{key}={json.dumps(value)}" for key, value in keys.items())
        command = [sys.executable, "-m", "flotilla", "run", str(ROOT), "--run-dir", f"{folder}/run"]
        command += ["--run-config", config] if config else []
        began = perf_counter()
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as done:
            try:
                said = done.communicate(timeout=patience)[0]
            except subprocess.TimeoutExpired:
                done.terminate()
                said = done.communicate()[0]
        seconds, summary = perf_counter() - began, Path(folder) / "run" / "summary.json"
        last = json.loads(summary.read_text(encoding="utf-8"))["last"] if summary.exists() else {}
    return Ended(code=done.returncode, seconds=seconds, last=last, said=said[-2000:])


def _run(options: Options) -> int:
    """Run the tables, print and write them; 1 if a run failed or took longer than it may."""
    failed = []
    for title in options.parts:
        wanted, lines = TABLES[title], []
        for name, own in wanted.rows.items():
            if options.only and not any(part in name for part in options.only):
                continue
            ended = run({**wanted.common, **own})
            lines.append([name, *ended.cells()])
            print(f"{title}: {' | '.join(lines[-1])}", flush=True)
            if ended.code or not ended.last or (wanted.limit and ended.seconds > wanted.limit):
                failed.append(f"{title}: {name}\n{ended.said}")
        heads = ["run", "exit code", "seconds", "global", "tiers"]
        if options.write and not options.only:  # some rows are no table
            replace_part(DOCUMENT, title, table(heads, lines, markdown=True))
    print("\n".join(failed) or "all finished within their time")
    return 1 if failed else 0


TASK = Command(_run, parts=TABLES, defaults={"only": (), "write": False})
