"""Startup: the default job, from the command to the prompt, within a minute."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from benchmarks.bench.rows import Row
from benchmarks.document import Say

NAME = "startup"
LIMIT = 60.0  # seconds
_ROOT = Path(__file__).resolve().parents[2]
# A phase ends with the first line that starts like this.
_PHASES = (
    ("Flower and Ray start", "run folder:"),
    ("first round", "round  1/"),
    ("the other rounds", "finished after"),
)


def startup(say: Say = print, run_config: str = "") -> list[Row]:
    """Time the default job.

    Args:
        say: takes progress.
        run_config: other settings, for a quick look.
    """
    say("startup: the default job")
    with tempfile.TemporaryDirectory(prefix="startup-") as folder:
        command = [sys.executable, "-m", "flotilla", "run", str(_ROOT), "--run-dir", f"{folder}/run"]
        command += ["--run-config", run_config] if run_config else []
        began = perf_counter()
        run = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert run.stdout is not None
        lines = [(perf_counter() - began, line) for line in run.stdout]
        code = run.wait()
        took = perf_counter() - began
    if code:
        raise RuntimeError(f"{' '.join(command)} ended with {code}:\n{''.join(line for _, line in lines[-20:])}")
    return [
        Row(
            benchmark=NAME,
            what="default job, command to prompt / 60 s",
            measured=took,
            reference=LIMIT,
            unit="s",
            ratio=took / LIMIT,
            limit=1.0,
            note=_phases(lines, took),
        )
    ]


def _phases(lines: list[tuple[float, str]], took: float) -> str:
    parts, last = [], 0.0
    for name, start in _PHASES:
        at = next((at for at, line in lines if line.strip().startswith(start)), last)
        parts.append(f"{name} {at - last:.1f} s")
        last = at
    return ", ".join([*parts, f"report and shutdown {took - last:.1f} s"])
