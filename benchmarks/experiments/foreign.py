"""Other people's networks, trained: five tiers of MobileNetV3-small (torchvision) and MobileNetV4-Conv-S (timm).

By `flotilla run`, on CIFAR-10 or a part of it. It is no study of accuracy: it shows that every tier learns, and that
what a device holds, computes and sends is what `flotilla inspect` says beforehand.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.document import table
from benchmarks.job import flotilla_run
from benchmarks.task import Command, Options
from data.files import Files
from data.settings import DataSettings
from data.sources import SOURCES

METHODS = ("heterofl", "fedrolex", "depthfl", "fiarse")
NETWORKS = ("mobilenet-v3-small", "mobilenet-v4-small")
TIERS = "abcde"
TRAIN, TEST = 4000, 1000  # pictures of a part
SETTINGS = (
    'num-clients=10 fraction-train=0.5 local-steps=10 batch-size=32 learning-rate=0.05 tiers="a:1, b:1/2, c:1/4, d:1/8,'
    ' e:1/16" evaluate-every={rounds} num-server-rounds={rounds} device="cpu"'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What came of a run.

    Attributes:
        method, network: what was run.
        last: of the run's summary, by tier.
        seconds: of the wall.
    """

    method: str
    network: str
    last: dict[str, dict[str, Any]]
    seconds: float


def part(folder: Path, root: str) -> Path:
    """Write a part of CIFAR-10 as arrays, the same always.

    Raises:
        SettingError: CIFAR-10 is not below the root.
    """
    draws = np.random.default_rng(1)
    train, test = (
        examples.select(torch.from_numpy(draws.permutation(len(examples))[:count]))
        for examples, count in zip(SOURCES["cifar10"].read(Files(root=Path(root))), (TRAIN, TEST), strict=True)
    )
    np.savez(
        folder / "part.npz",
        x_train=train.values.numpy(),
        y_train=train.labels.numpy(),
        x_test=test.values.numpy(),
        y_test=test.labels.numpy(),
    )
    return folder / "part.npz"


def run(method: str, network: str, rounds: int, data: str, folder: Path) -> Trained:
    """One run of the command.

    Raises:
        RuntimeError: it failed.
    """
    config = f'method="{method}" model="{network}" {data} {SETTINGS.format(rounds=rounds)}'
    ran = flotilla_run(folder, config, "--engine", "local", "--processes", "0")
    return Trained(
        method=method,
        network=network,
        last=json.loads((folder / "summary.json").read_text(encoding="utf-8"))["last"]["tiers"],
        seconds=ran.seconds,
    )


HEADS = ["network", "method", *(f"{tier}: accuracy, share, MACs" for tier in TIERS)]


def cells(one: Trained) -> list[str]:
    """A line of the table: by tier, accuracy, share of the largest's parameters, millions of multiply-accumulates."""
    most = max(tier["parameters"] for tier in one.last.values())
    tiers = [one.last[tier] for tier in TIERS]
    return [
        one.network,
        one.method,
        *(
            f"{100 * told['accuracy']:.1f} %, {100 * told['parameters'] / most:.1f} %, {told['macs'] / 1e6:.2f} M"
            for told in tiers
        ),
    ]


def _run(options: Options) -> int:
    """Run, and print the table."""
    lines: list[Sequence[str]] = []
    with tempfile.TemporaryDirectory(prefix="foreign-") as folder:
        root = options.data_root or DataSettings(dataset="cifar10").data_root
        file = part(Path(folder), root)
        data = f'dataset="npz:{file.name}" data-root="{file.parent}"'
        wanted = [one for one in NETWORKS if not options.only or any(word in one for word in options.only)]
        for network, method in product(wanted, options.methods or METHODS):
            one = run(method, network, options.rounds, data, Path(folder) / f"{network}-{method}")
            lines.append(cells(one))
            print("  ".join(lines[-1]), f"{one.seconds:.0f} s", flush=True)
    print(f"\n{options.rounds} rounds of five of ten devices in five tiers, 10 steps of 32 each\n")
    print(table(HEADS, lines))
    return 0


TASK = Command(_run, defaults={"methods": (), "only": (), "rounds": 10, "data_root": ""})
