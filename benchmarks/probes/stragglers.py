"""What nodes that are late or silent cost a run, by what it does about them.

The first table is of virtual devices (`simulated-devices = "mixed"`, of which some are slow and some are lost): how
long a round lasts when more nodes are asked than it needs. The second is of real requests to nodes of which one never
answers one to train, on a clock that passes only while somebody waits: how many seconds the run waited for it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any
from unittest.mock import patch

from flwr.app import Message

from benchmarks.document import DOCS, replace_part, table
from benchmarks.task import Command, Options
from strategies.exchange.messaging import exchange
from tests.support import Time, play, trains

DOCUMENT = DOCS / "deploy.md"
DEADLINE = 20.0  # virtual seconds; every device can meet it unless it is lost
_SILENT = 2

Row = Mapping[str, Any]


def rows_of(faults: Any = None, **keys: Any) -> Sequence[Row]:
    """The metrics of a run."""
    with tempfile.TemporaryDirectory() as folder:
        return play(Path(folder) / "run", faults, **keys).rows


def over_selected(rounds: int) -> list[list[str]]:
    """A line for each rate of over-selection."""
    found = []
    for rate in (1.0, 1.2, 1.5, 2.0):
        rows = rows_of(
            num_clients=20,
            fraction_train=0.5,
            simulated_devices="mixed",
            deadline=DEADLINE,
            over_selection=rate,
            num_server_rounds=rounds,
            quorum=0.1,
        )
        seconds = [row["virtual_seconds"] for row in rows]
        asked, counted = fmean(len(row["selected"]) for row in rows), fmean(row["accepted"] for row in rows)
        late = sum(one >= DEADLINE for one in seconds)
        figures = (
            f"{median(seconds):.1f}",
            f"{fmean(seconds):.1f}",
            f"{late} of {rounds}",
            f"{rows[-1]['accuracy']:.1%}",
        )
        found.append([f"{rate:g}", f"{asked:.0f}", f"{counted:.1f}", *figures])
    return found


def waited(rounds: int) -> list[list[str]]:
    """A line for each way to wait for a node that is silent."""

    def silent(request: Message, reply: Message) -> list[Message]:
        return [] if trains(request, _SILENT) else [reply]

    found = []
    for name, keys in (("`deadline-factor = 0`", {"deadline_factor": 0.0}), ("default", {})):
        time = Time()
        with patch.dict(exchange.__kwdefaults__ or {}, clock=time.clock):
            rows = rows_of(silent, num_clients=10, num_server_rounds=rounds, **keys)
        asked = sum(_SILENT in row["selected"] for row in rows)
        found.append([name, f"{asked} of {rounds}", f"{time.seconds:,.0f} s"])
    return found


def _run(options: Options) -> int:
    """Print both tables; write them into docs/deploy.md."""
    heads = ["`over-selection`", "asked", "counted", "s a round, median", "mean", "rounds at the deadline", "accuracy"]
    text = table(heads, over_selected(options.rounds), markdown=True)
    text += "\n\n" + table(["", "rounds that asked it", "waited in all"], waited(options.rounds), markdown=True)
    print(f"\n{text}")
    if options.write:
        replace_part(DOCUMENT, "stragglers", text)
    return 0


TASK = Command(_run, defaults={"rounds": 30, "write": False})
