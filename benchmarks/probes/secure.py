"""What secure aggregation costs: bytes and seconds of a device and of the server, by the size of a group; and a round.

*devices*: one group in this process, of a network of a quarter of a million coordinates, with nobody and with a quarter
of the devices lost after training. *federation*: rounds of SuperNodes of their own, with and without.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.clock import cpu_seconds
from benchmarks.document import DOCS, ROOT, replace_part, table
from benchmarks.task import Command, Options
from protocol import Scalar
from protocol.secure.fixed_point import Floats
from tests.strategies.secure.devices import Devices, part_of

DOCUMENT = DOCS / "deploy.md"
_WIDTH = 500  # of two layers: a quarter of a million coordinates
_GROUPS = (4, 8, 16, 32)


def group(count: int) -> list[str]:
    """A line of the first table."""
    part = part_of(_WIDTH)
    vector: Floats = np.zeros(part.numel)
    devices = Devices(count, least=2, part=part, sharing=())
    shared = [cpu_seconds(lambda i=i: devices.share(i)) for i in range(count)]  # type: ignore[misc]
    told = [sum(map(len, devices.group.told(i, 1.0).envelopes)) for i in range(count)]
    lost = count // 4
    masked = [cpu_seconds(lambda i=i: devices.send(i, vector)) for i in range(lost, count)]  # type: ignore[misc]
    replies = {i: devices.opened(i) for i in devices.group.survivors}
    opening = cpu_seconds(lambda: devices.group.open(replies, 1.0))
    whole = Devices(count, least=2, part=part)
    for i in range(count):
        whole.send(i, vector)
    shares = {i: whole.opened(i) for i in whole.group.survivors}
    nobody = cpu_seconds(lambda: whole.group.open(shares, 1.0))
    said = sum(map(len, shares[0].shares))
    keys = sum(len(one.mask_key) + len(one.seal_key) for one in whole.group._keys)
    return [
        str(count),
        f"{(keys / count + told[0] + said) / 1e3:.1f}",
        f"{(keys + told[0]) / 1e3:.1f}",
        f"{4 * part.numel / 1e6:.1f}",
        f"{median(shared):.2f}",
        f"{median(masked):.2f}",
        f"{nobody:.2f}",
        f"{opening:.2f}",
    ]


def rounds(options: Options, *, secure: bool) -> Sequence[Mapping[str, Any]]:
    """Rounds of a federation of processes on this machine."""
    keys: dict[str, Scalar] = {
        "model": "mlp",
        "widths": "64, 32",
        "norm": "none",
        "tiers": "a:1, b:1/2",
        "heterofl-label-rows": False,
        "local-steps": 3,
        "evaluate-every": 100,
        "num-clients": options.nodes,
        "num-server-rounds": options.rounds,
        "min-cover": 2,
        "secure-threshold": 2,
        "secure-aggregation": secure,
    }
    config = " ".join(f"{key}={json.dumps(value)}" for key, value in keys.items())
    with tempfile.TemporaryDirectory(prefix="secure-") as folder:
        command = ["-m", "flotilla", "federation", str(ROOT), "--run-dir", f"{folder}/run", "-c", config]
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def federation(options: Options, *, secure: bool) -> list[str]:
    """A line of the second table: medians over the rounds."""
    rows = rounds(options, secure=secure)
    if lost := [one for row in rows for one in row["rejected"]]:
        raise RuntimeError(f"{len(lost)} replies were lost, the first: {lost[0]}")

    def of(name: str) -> float:
        return float(median(row["seconds"].get(name, 0.0) for row in rows))

    beside = median(row["bytes_survey_down"] + row["bytes_survey_up"] for row in rows[1:])
    return [
        "`secure-aggregation = true`" if secure else "without",
        *(f"{of(name):.1f}" for name in ("keys", "train", "unmask")),
        f"{median(row['bytes_up'] for row in rows) / 1e3:.1f}",
        f"{beside / 1e3:.1f}",
    ]


def of_devices(options: Options) -> str:
    """The first table."""
    del options
    heads = [
        "devices of a sum",
        "kB up, beside the difference",
        "kB down, beside the state",
        "MB of a difference",
        "s a device: shares",
        "masks",
        "s the server: all stay",
        "a quarter lost",
    ]
    return table(heads, [group(count) for count in _GROUPS], markdown=True)


def of_federation(options: Options) -> str:
    """The second table."""
    heads = ["", "s: keys and shares", "training", "opening", "kB up, differences", "kB, keys and shares"]
    return table(heads, [federation(options, secure=secure) for secure in (False, True)], markdown=True)


_PARTS = {"devices": of_devices, "federation": of_federation}


def _run(options: Options) -> int:
    """Print the tables; write them into docs/deploy.md."""
    for part in options.parts:
        text = _PARTS[part](options)
        print(f"\n{text}", flush=True)
        if options.write:
            replace_part(DOCUMENT, f"secure-{part}", text)
    return 0


TASK = Command(_run, parts=_PARTS, defaults={"rounds": 3, "nodes": 4, "write": False})
