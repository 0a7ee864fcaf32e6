"""A whole round of the default job against an earlier build's: training, statistics, evaluation, checkpoint, metrics.

Both run every client in their own process (`--engine local`, no workers), so that the CPU seconds of that process are
all there is, whatever else the machine does; they take turns. A round counts from one line of output to the next; the
first one is left out. The earlier build is taken out of the repository's history.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path

from benchmarks.bench.rows import Row, row_of_turns
from benchmarks.document import ROOT, Say

NAME = "rounds"
EARLIER = "1addf78"  # by autograd, evaluated with all threads

# What both builds run: nothing here is of one of them but the place of the local engine.
_RUN = """
import json, sys, time
try:
    from flotilla.local import run_local
except ImportError:
    from flotilla.engine import run_local

class Lines:
    def __init__(self): self.ends = []
    def isatty(self): return False
    def flush(self): pass
    def write(self, text):
        self.ends += [(time.perf_counter(), time.process_time())] * (text.startswith("round ") or "\\nround " in text)

found = sys.stdout = Lines()
run_local({"num-server-rounds": int(sys.argv[1]), "run-dir": sys.argv[2]}, 20, 0)
sys.stdout = sys.__stdout__
(wall, cpu), (end, last) = found.ends[0], found.ends[-1]
count = len(found.ends) - 1
print(json.dumps([(end - wall) / count, (last - cpu) / count]))
"""


def rounds(say: Say = print, count: int = 11, turns: int = 9, earlier: Path | None = None) -> list[Row]:
    """Measure seconds a round.

    Args:
        say: takes progress.
        count: rounds of each run; the first is left out.
        turns: runs of each build.
        earlier: a checkout of the earlier build; None takes it out of the history.

    Raises:
        RuntimeError: the earlier build is not in the history, or a run failed; says how.
    """
    with tempfile.TemporaryDirectory() as folder:
        before = earlier or taken_out(EARLIER, Path(folder) / "earlier")
        wall, cpu = [], []
        for turn in range(turns):
            ours, theirs = (
                _seconds(root, Path(folder) / f"{turn}-{name}", count)
                for name, root in (("now", ROOT), ("earlier", before))
            )
            say(f"rounds: turn {turn + 1} of {turns}: {1e3 * ours[1]:.0f} / {1e3 * theirs[1]:.0f} ms of CPU time")
            wall.append((ours[0], theirs[0]))
            cpu.append((ours[1], theirs[1]))
    what = f"default job, evaluation and statistics included: {{}} a round / build {EARLIER}"
    note = f"{count - 1} rounds of each run, all clients in the server's process"
    return [
        row_of_turns(NAME, what.format("CPU time"), cpu, unit="ms", scale=1e3, limit=0.35, note=note),
        row_of_turns(NAME, what.format("time"), wall, unit="ms", scale=1e3, limit=0.4),
    ]


def taken_out(commit: str, folder: Path) -> Path:
    """The files of a commit, in a new folder.

    Raises:
        RuntimeError: the history does not have it.
    """
    done = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"commit {commit} is not in this repository: {done.stderr.decode().strip()}")
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def _seconds(root: Path, run_dir: Path, count: int) -> tuple[float, float]:
    """Wall and CPU seconds a round."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(count), str(run_dir)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"a run of {root} failed: {done.stderr[-2000:]}")
    wall, cpu = json.loads(done.stdout.splitlines()[-1])
    return wall, cpu
