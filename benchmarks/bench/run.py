"""Measure what was asked for, print one table, answer 1 when a limit is missed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

from benchmarks.bench.averaging import averaging
from benchmarks.bench.clients import clients
from benchmarks.bench.codecs import codecs
from benchmarks.bench.deployed import TURNS as DEPLOYED_TURNS
from benchmarks.bench.deployed import deployed
from benchmarks.bench.engine import engine
from benchmarks.bench.evaluating import evaluation
from benchmarks.bench.exported import exported
from benchmarks.bench.foreign import foreign
from benchmarks.bench.loading import loading
from benchmarks.bench.memory import memory
from benchmarks.bench.operations import PROFILED, operations
from benchmarks.bench.pfl import pfl
from benchmarks.bench.ranks import ranks
from benchmarks.bench.rounds import rounds
from benchmarks.bench.rows import HEADS, Row
from benchmarks.bench.selection import selection
from benchmarks.bench.startup import TURNS, startup
from benchmarks.bench.sweep import sweep
from benchmarks.bench.training import training
from benchmarks.document import DOCS, RESULTS, replace_part, table
from benchmarks.machine import machine
from benchmarks.task import Command, Options

BENCHMARKS: dict[str, Callable[[Callable[[str], None]], list[Row]]] = {
    "averaging": averaging,
    "codecs": codecs,
    "memory": memory,
    "clients": clients,
    "loading": loading,
    "training": training,
    "rounds": rounds,
    "evaluation": evaluation,
    "pfl": pfl,
    "engine": engine,
    "selection": selection,
    "exported": exported,
    "foreign": foreign,
    "ranks": ranks,
    "startup": startup,
    "deployed": deployed,
    "sweep": sweep,
}
# Whose tables are not in docs/results.md.
_ELSEWHERE = {
    "foreign": DOCS / "networks.md",
    "loading": DOCS / "data.md",
    "exported": DOCS / "models-out.md",
    "ranks": DOCS / "ranks.md",
    "clients": DOCS / "scale.md",
    "deployed": DOCS / "deploy.md",
}


def _run(options: Options) -> int:
    """Measure, or read what was measured; print one table; 1 when a limit is missed. Or profile."""
    if options.operations:
        return _profile(options)
    if options.rows:
        try:
            made_on, rows = read(options.rows)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            _say(f"bench: --rows {options.rows}: a file that --json wrote is wanted; {type(error).__name__}: {error}")
            return 2
    else:
        made_on, rows = machine(), []
        for name in options.parts:
            began = perf_counter()
            if name == "startup":
                rows += startup(_say, against=options.against, turns=options.turns or TURNS)
            elif name == "deployed":
                rows += deployed(_say, against=options.against, turns=options.turns or DEPLOYED_TURNS)
            else:
                rows += BENCHMARKS[name](_say)
            _say(f"{name}: {perf_counter() - began:.0f} s")
    if options.json:
        found = {"machine": made_on, "rows": [row.to_json() for row in rows]}
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if options.write:
        for document in (RESULTS, *_ELSEWHERE.values()):
            if own := [row for row in rows if _ELSEWHERE.get(row.benchmark, RESULTS) == document]:
                write(made_on, own, document)
    print(f"\n{made_on}\n\n{table(HEADS, [row.cells() for row in rows])}\n")
    for row in rows:
        if row.note:
            print(f"{row.benchmark}: {row.what}: {row.note}")
    missed = [row for row in rows if not row.passed]
    print(f"\n{len(missed)} of {sum(row.limit is not None for row in rows)} limits missed")
    return 1 if missed else 0


def _profile(options: Options) -> int:
    """Print which operations the time goes to."""
    asked = PROFILED if list(options.parts) == list(BENCHMARKS) else options.parts
    if unknown := [name for name in asked if name not in PROFILED]:
        _say(f"bench: of {', '.join(unknown)} there is no profile; there is one of {', '.join(PROFILED)}")
        return 2
    text = f"{machine()}.\n\n{operations(list(asked))}"
    if options.write:
        replace_part(RESULTS, "operations", text)
    print(text)
    return 0


def read(source: Path) -> tuple[str, list[Row]]:
    """The machine and the rows of a file that `--json` wrote."""
    found = json.loads(source.read_text(encoding="utf-8"))
    return found["machine"], [Row.from_json(values) for values in found["rows"]]


def write(made_on: str, rows: Sequence[Row], document: Path = RESULTS) -> None:
    """Put the table into the document."""
    notes = [f"- {row.benchmark}, {row.what}: {row.note}." for row in rows if row.note]
    parts = [made_on + ".", table(HEADS, [row.cells() for row in rows], markdown=True), "\n".join(notes)]
    replace_part(document, "bench", "\n\n".join(part for part in parts if part))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


TASK = Command(
    _run,
    parts=BENCHMARKS,
    defaults={"json": None, "rows": None, "against": None, "turns": 0, "operations": False, "write": False},
)
