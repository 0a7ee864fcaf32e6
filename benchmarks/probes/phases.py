"""Where the seconds of a deployed round go.

The same five-node federation twice, over TLS with keys: with Flower's own SuperExec, which starts a Python for each
message, and with our executor, which forks one. All figures are from the runs' own metrics; the first round is apart,
since nodes say hello in it and Flower hands them the app.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.document import DOCS, ROOT, replace_part, table
from benchmarks.machine import machine
from benchmarks.task import Command, Options
from flotilla.deploy.federation import prepare_federation, run_federation

DOCUMENT = DOCS / "deploy.md"
_CONFIG = "num-clients=5 local-epochs=1 evaluate-every=1000 num-server-rounds={rounds}"
_LOOKED_AT = 0.25  # seconds that the server may be idle in a phase while there is something to do

Row = Mapping[str, Any]
Figure = Callable[[Sequence[Row]], float]


def metrics(rounds: int, *, superexec: bool) -> tuple[list[Row], float]:
    """Run the federation; its metrics, and the seconds of the whole command."""
    with tempfile.TemporaryDirectory(prefix="phases-") as folder:
        run, began = Path(folder) / "run", perf_counter()
        config = _CONFIG.format(rounds=rounds)
        settings = prepare_federation(ROOT, [config], nodes=None, run_dir=run, resume=None)
        code = run_federation(settings, None, superexec=superexec)
        if code:
            raise RuntimeError(f"the federation ended with {code}")
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    if lost := [one for row in rows for one in row["rejected"]]:
        raise RuntimeError(f"{len(lost)} replies were lost, the first: {lost[0]}")
    return rows, perf_counter() - began


def lines(runs: Mapping[str, Sequence[Row]]) -> list[list[str]]:
    """The table: a line for each figure, a column for each run."""
    figures: list[tuple[str, Figure]] = [
        ("hello of all nodes, in round 1", lambda rows: rows[0]["seconds"]["hello"]),
        ("round 1 without it", lambda rows: sum(rows[0]["seconds"].values()) - rows[0]["seconds"]["hello"]),
        ("**a later round**", _later(lambda row: sum(row["seconds"].values()))),
        ("select and plan", _later(lambda row: row["seconds"]["select"] + row["seconds"]["plan"])),
        ("hand all requests to the SuperLink", _later(lambda row: row["waiting_seconds"]["train"]["sent"])),
        ("from then until the first reply is in hand", _later(lambda row: row["waiting_seconds"]["train"]["first"])),
        ("… until the last one is", _later(lambda row: row["waiting_seconds"]["train"]["last"])),
        ("fold all replies, new state, checkpoint", _later(_serving)),
        ("a client's own work, mean", _later(lambda row: row["client_seconds"]["local"])),
        ("**outside of it: flwr's share**, mean", _later(lambda row: row["client_seconds"]["outside"])),
        ("from a reply's making until it is in hand, longest", _later(_longest("max_transit"))),
        ("a reply at the SuperLink unasked, at most", _later(_longest("max_poll_gap"))),
        ("… the worst round", lambda rows: max(map(_longest("max_poll_gap"), rows))),
        ("… then fetched by flwr within", _later(_longest("max_fetch"))),
        ("**server idle in a phase, at most**, the worst round", lambda rows: max(map(_longest("max_sleep"), rows))),
        ("a reply in hand waits for its turn, longest", _later(_longest("max_queued"))),
    ]
    return [[what, *(f"{figure(rows):.3f}" for rows in runs.values())] for what, figure in figures]


def _later(figure: Callable[[Row], float]) -> Figure:
    return lambda rows: median(figure(row) for row in rows[1:])


def _longest(name: str) -> Callable[[Row], float]:
    """The most of something among the phases of a round."""
    return lambda row: max(waited[name] for waited in row["waiting_seconds"].values())


def _serving(row: Row) -> float:
    return float(sum(row["seconds"].get(name, 0.0) for name in ("fold", "finish", "checkpoint")))


def _run(options: Options) -> int:
    """Run both, print the table, write it into docs/deploy.md; 1 if the server idled while there was work."""
    runs: dict[str, Sequence[Row]] = {}
    whole: list[str] = []
    for name, superexec in (("before: flower-superexec", True), ("after: our executor", False)):
        runs[name], seconds = metrics(options.rounds, superexec=superexec)
        whole.append(f"{seconds:.1f}")
    found = lines(runs)
    text = table(["seconds", *runs], [*found, ["the whole command", *whole]], markdown=True)
    text += f"\n\nMedians of rounds 2 to {options.rounds}, where it says nothing else. {machine()}."
    print(f"\n{text}")
    if options.write:
        replace_part(DOCUMENT, "phases", text)
    idle = max(max(map(_longest("max_sleep"), rows)) for rows in runs.values())
    return 0 if idle <= _LOOKED_AT else 1


TASK = Command(_run, defaults={"rounds": 8, "write": False})
