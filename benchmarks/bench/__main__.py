"""`python -m benchmarks [NAME …]`: run the benchmarks, print one table, answer 1 when a limit is missed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

from benchmarks.bench.averaging import averaging
from benchmarks.bench.codecs import codecs
from benchmarks.bench.engine import engine
from benchmarks.bench.machine import machine
from benchmarks.bench.memory import memory
from benchmarks.bench.pfl import pfl
from benchmarks.bench.rows import HEADS, Row, table
from benchmarks.bench.selection import selection
from benchmarks.bench.startup import startup
from benchmarks.bench.training import training
from benchmarks.experiments.document import RESULTS, replace_part

BENCHMARKS: dict[str, Callable[[Callable[[str], None]], list[Row]]] = {
    "averaging": averaging,
    "codecs": codecs,
    "memory": memory,
    "training": training,
    "pfl": pfl,
    "engine": engine,
    "selection": selection,
    "startup": startup,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all unless given")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="put the rows of this JSON file into docs/results.md"
    )
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    if options.write:
        write(options.write)
        return 0
    rows: list[Row] = []
    for name in options.names or BENCHMARKS:
        began = perf_counter()
        rows += BENCHMARKS[name](_say)
        _say(f"{name}: {perf_counter() - began:.0f} s")
    if options.json:
        found = {"machine": machine(), "rows": [row.to_json() for row in rows]}
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"\n{machine()}\n\n{table(HEADS, [row.cells() for row in rows])}\n")
    for row in rows:
        if row.note:
            print(f"{row.benchmark}: {row.what}: {row.note}")
    missed = [row for row in rows if not row.passed]
    print(f"\n{len(missed)} of {sum(row.limit is not None for row in rows)} limits missed")
    return 1 if missed else 0


def write(source: Path, document: Path = RESULTS) -> None:
    """Put a table that `--json` wrote into the document."""
    found = json.loads(source.read_text(encoding="utf-8"))
    rows = [Row.from_json(values) for values in found["rows"]]
    notes = [f"- {row.benchmark}, {row.what}: {row.note}." for row in rows if row.note]
    parts = [found["machine"] + ".", table(HEADS, [row.cells() for row in rows], markdown=True), "\n".join(notes)]
    replace_part(document, "bench", "\n\n".join(parts))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
