"""How far the resident peak of a process of its own exceeds what it held at some point (Linux)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def in_a_process(module: str, *arguments: object) -> int:
    """Bytes that a module of the benchmarks prints as its last line when it is run.

    Raises:
        RuntimeError: it failed; says how.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    return int(json.loads(done.stdout.splitlines()[-1]))


def held() -> int:
    """Bytes that this process holds; its peak starts anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> int:
    """The most that it has held since."""
    return _status("VmHWM")


def _status(key: str) -> int:
    """Ask the kernel for a size, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{key}:")).split()[1])
