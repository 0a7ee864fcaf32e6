"""A round on real SuperNodes, processes of this machine, against an earlier build's; in turns.

Five SuperNodes of five tiers, over TLS with a key each, every round with training, statistics and evaluation
(`flotilla federation`, the job of `probes phases`). A round counts as its own metrics have it; the first one, in which
nodes say hello and load the app, is left out.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.bench.rounds import EARLIER, taken_out
from benchmarks.bench.rows import Row, row_of_turns
from benchmarks.document import ROOT, Say
from benchmarks.job import flotilla_run

NAME = "deployed"
TURNS, ROUNDS = 3, 7
_CONFIG = "num-clients=5 local-epochs=1 num-server-rounds={}"
_PARTS = ("train", "statistics")


def deployed(say: Say = print, *, against: Path | None = None, turns: int = TURNS, rounds: int = ROUNDS) -> list[Row]:
    """Measure seconds a round.

    Args:
        say: takes progress.
        against: a checkout of the earlier build; None takes it out of the history.
        turns: runs of each build.
        rounds: of each run; the first is left out.

    Raises:
        RuntimeError: the earlier build is not in the history, or a run failed; says how.
    """
    with tempfile.TemporaryDirectory(prefix="deployed-") as folder:
        before = against.resolve() if against else taken_out(EARLIER, Path(folder) / "earlier")
        name, found = against.name if against else f"build {EARLIER}", []
        for turn in range(turns):
            found.append(
                [_measured(root, Path(folder) / f"{turn}-{at}", rounds) for at, root in enumerate((ROOT, before))]
            )
            took = " / ".join(f"{one['round']:.2f} s, {one['cpu']:.0f} CPU s in all" for one in found[-1])
            say(f"deployed: turn {turn + 1} of {turns}: {took}")
    parts = "; ".join(
        f"{part} "
        + " against ".join(f"{median(side[part] for side in sides):.2f}" for sides in zip(*found, strict=True))
        for part in _PARTS
    )
    note = f"median of rounds 2 to {rounds}; seconds of ours against theirs: {parts}"
    wall = [(ours["round"], theirs["round"]) for ours, theirs in found]
    cpu = [(ours["cpu"], theirs["cpu"]) for ours, theirs in found]
    seen = f"{rounds} rounds, start and end included; what a process uses after the last look at it, 0.1 s, is not seen"
    return [
        row_of_turns(NAME, f"a round of five SuperNodes / {name}", wall, unit="s", limit=0.3, note=note),
        row_of_turns(NAME, f"the whole command, all processes / {name}", cpu, unit="CPU s", note=seen),
    ]


def _measured(root: Path, run_dir: Path, rounds: int) -> dict[str, float]:
    """Medians of a later round and of its parts, and CPU seconds of the command."""
    ran = flotilla_run(run_dir, _CONFIG.format(rounds), root=root, count=True, command="federation")
    text = (run_dir / "metrics.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    if lost := [one for row in rows for one in row["rejected"]]:
        raise RuntimeError(f"{root}: {len(lost)} replies were lost, the first: {lost[0]}")
    later = [row["seconds"] for row in rows[1:]]
    parts = {part: median(seconds[part] for seconds in later) for part in _PARTS}
    return {"round": median(sum(seconds.values()) for seconds in later), "cpu": ran.cpu_seconds, **parts}
