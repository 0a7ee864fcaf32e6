"""What the default job leaves, as files: every tier by HeteroFL and by DepthFL, float and int8 (docs/models-out.md).

Both jobs are run, their tiers exported to ONNX and held against PyTorch and against what the run reported.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.document import DOCS, replace_part, table
from benchmarks.job import flotilla_run
from benchmarks.machine import machine
from benchmarks.task import Command, Options
from flotilla.serving.export import export
from flotilla.serving.export_table import HEADS, Exported, cells
from flotilla.serving.formats.int8 import Int8

DOCUMENT = DOCS / "models-out.md"
METHODS = ("heterofl", "depthfl")


def exported(method: str, folder: Path, rounds: int = 0) -> list[Exported]:
    """Run the default job with a method (of its usual number of rounds, if 0), and export every tier of it.

    Raises:
        RuntimeError: the job failed.
        CannotExport: a file does not compute what its tier does.
    """
    keys = f'method="{method}"' + (f" num-server-rounds={rounds}" if rounds else "")
    flotilla_run(folder, keys, "--engine", "local")
    return export(folder, "all", "onnx", int8=Int8())


def lines(method: str, rows: Sequence[Exported]) -> list[list[str]]:
    """Of one method."""
    found = []
    for row in rows:
        tier, *shown = cells(row)[:-1]
        found.append([method, tier, row.numbers, *shown, "yes" if row.file else f"no: {row.reason}"])
    return found


def _run(options: Options) -> int:
    """Print the table, and write it."""
    found = list[list[str]]()
    for method in options.methods or METHODS:
        with tempfile.TemporaryDirectory(prefix="exports-") as folder:
            found += lines(method, exported(method, Path(folder) / "run", options.rounds))
        print(f"{method}: done", file=sys.stderr, flush=True)
    heads = ["method", HEADS[0], "numbers", *HEADS[1:-1], "kept"]
    print(table(heads, found))
    if options.write:
        replace_part(DOCUMENT, "exports", f"{machine()}.\n\n{table(heads, found, markdown=True)}")
    return 0


TASK = Command(_run, defaults={"methods": (), "rounds": 0, "write": False})
