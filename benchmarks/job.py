"""`flotilla run` from the command to the prompt, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from benchmarks.cpu_time import cpu_time
from benchmarks.document import ROOT


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A run that ended well.

    Attributes:
        lines: what it printed, each line with the seconds since the command.
        seconds: of the whole command.
        cpu_seconds: of it and of all that it started; 0.0 where they are not counted.
        peak_kb: resident memory of its process at most.
    """

    lines: list[tuple[float, str]]
    seconds: float
    cpu_seconds: float = 0.0
    peak_kb: int


def flotilla_run(
    run_dir: Path,
    config: str = "",
    *options: str,
    env: Mapping[str, str] | None = None,
    root: Path = ROOT,
    count: bool = False,
    command: str = "run",
) -> Ran:
    """Run the app of a checkout by its own code.

    Args:
        run_dir: folder of the run.
        config: settings; "" is the default job.
        options: others of the command.
        env: variables beside those of this process.
        root: the checkout.
        count: whether CPU seconds are counted, which takes some itself.
        command: flotilla's, "run" or "federation".

    Raises:
        RuntimeError: the run failed; with the end of what it printed.
    """
    words = [sys.executable, "-m", "flotilla", command, str(root), "--run-dir", str(run_dir), *options]
    words += ["--run-config", config] if config else []
    began = perf_counter()
    started = subprocess.Popen(
        words,
        cwd=root,
        env={**os.environ, **(env or {}), "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert started.stdout is not None
    with started.stdout as printed, cpu_time(started.pid) if count else nullcontext() as counted:
        lines = [(perf_counter() - began, line) for line in printed]
        _, status, used = os.wait4(started.pid, 0)
        seconds = perf_counter() - began
    started.returncode = os.waitstatus_to_exitcode(status)
    if started.returncode:
        said = "".join(line for _, line in lines[-20:])
        raise RuntimeError(f"{' '.join(words)} ended with {started.returncode}:\n{said}")
    return Ran(
        lines=lines,
        seconds=seconds,
        cpu_seconds=counted.seconds if counted else 0.0,
        peak_kb=used.ru_maxrss,
    )
