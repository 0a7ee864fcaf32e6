"""Many small runs: side by side as a sweep, and one after another through `flotilla run`, to the same models.

The runs are small, so what a sweep saves by importing and reading the data once counts beside what the cores do at the
same time. Held against the faster of the two engines of `flotilla run`, the local one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from time import perf_counter

from benchmarks.bench.rows import Row
from benchmarks.document import ROOT, Say
from benchmarks.job import flotilla_run

LIMIT = 0.6
METHODS, SEEDS = ("heterofl", "fedrolex", "fedavg"), (1, 2, 3, 4)
SETTINGS: dict[str, str | int] = {"model": "mlp", "widths": "64, 32", "num-clients": 10, "num-server-rounds": 3}


def sweep(say: Say = print) -> list[Row]:
    """Time twelve runs of three rounds both ways, and hold their models against each other.

    Args:
        say: takes progress.

    Raises:
        RuntimeError: a run failed, or a model differs.
    """
    with tempfile.TemporaryDirectory(prefix="sweep-") as name:
        folder = Path(name)
        say("sweep: side by side")
        together, swept = _side_by_side(folder)
        say("sweep: one after another")
        apart, ran = _one_after_another(folder, say)
    if swept != ran:
        differ = ", ".join(name for name in ran if swept.get(name) != ran[name])
        raise RuntimeError(f"a sweep's model is not that of `flotilla run`: {differ}")
    return [
        Row(
            benchmark="sweep",
            what=f"{len(ran)} small runs side by side / one after another, `flotilla run --engine local`",
            measured=together,
            reference=apart,
            unit="s",
            ratio=together / apart,
            limit=LIMIT,
            note="models equal bit for bit",
        )
    ]


def _side_by_side(folder: Path) -> tuple[float, dict[str, str]]:
    file, target = folder / "twelve.toml", folder / "swept"
    lines = [f"{key} = {_toml(value)}" for key, value in SETTINGS.items()]
    grid = f"method = {list(METHODS)}\nseed = {list(SEEDS)}"
    file.write_text("[settings]\n" + "\n".join(lines) + f"\n\n[grid]\n{grid}\n", encoding="utf-8")
    command = [sys.executable, "-m", "flotilla", "sweep", str(file), str(ROOT), "--folder", str(target)]
    began = perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    took = perf_counter() - began
    if done.returncode:
        said = (done.stdout + done.stderr)[-2000:]
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{said}")
    return took, {_name(run): _hash(run) for run in sorted((target / "runs").iterdir())}


def _one_after_another(folder: Path, say: Callable[[str], None]) -> tuple[float, dict[str, str]]:
    took, found = 0.0, {}
    for method in METHODS:
        for seed in SEEDS:
            run = folder / f"{method}-{seed}"
            config = " ".join(
                f"{key}={_toml(value)}" for key, value in {**SETTINGS, "method": method, "seed": seed}.items()
            )
            took += flotilla_run(run, config, "--engine", "local").seconds
            found[_name(run)] = _hash(run)
            say(f"sweep: {len(found)} of {len(METHODS) * len(SEEDS)} by themselves, {took:.0f} s")
    return took, found


def _toml(value: str | int) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _name(run: Path) -> str:
    """Method and seed of a run."""
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))["config"]
    return f"{config['method']}, seed {config['seed']}"


def _hash(run: Path) -> str:
    return sha256((run / "model.safetensors").read_bytes()).hexdigest()
