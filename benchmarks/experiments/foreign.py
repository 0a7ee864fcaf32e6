"""Other people's networks, trained: five tiers of MobileNetV3-small (torchvision) and MobileNetV4-Conv-S (timm).

By `flotilla run`, on CIFAR-10 or a part of it. It is no study of accuracy: it shows that every tier learns, and that
what a device holds, computes and sends is what was said beforehand. A tier has learnt when its network is right more
often than guessing by more than three standard deviations of what guessing gives on so many test pictures.

Norms take the statistics of the data (`static-batch`) with every method: torchvision's MobileNetV3 asks for running
ones that move by 0.01 a step, so after some hundred steps they are still what they began with. The smallest tier has a
quarter: with FIARSE's masks no less of these networks can learn, as factories draw the classifiers' weights, two fifths
of all, so small that the masks of such tiers leave none of them. FedRolex has a constant learning rate: its windows
move on in every round, and by one that falls to 0 those that come last are not trained any more.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.document import DOCS, replace_part, table
from benchmarks.job import flotilla_run
from benchmarks.task import Command, Options
from data.files import Files
from data.settings import DataSettings
from data.sources import SOURCES
from flotilla.serving.load import load
from flotilla.serving.model import TierModel
from models.networks.build import submodel

DOCUMENT = DOCS / "networks.md"
METHODS = ("heterofl", "fedrolex", "depthfl", "fiarse")
NETWORKS = ("mobilenet-v3-small", "mobilenet-v4-small")
TIERS = "abcde"
TRAIN, TEST, CLASSES = 4000, 2000, 10  # pictures of a part
DEVIATIONS = 3  # above chance
_BYTES = 4  # of a float32
_TIES = 1e-5  # share of a tier's weights
DEVICES = "five of ten devices in five tiers, 20 steps of 32 pictures each"
SETTINGS = (
    'num-clients=10 fraction-train=0.5 local-steps=20 batch-size=32 norm="static-batch" tiers="a:1, b:3/4, c:1/2,'
    ' d:3/8, e:1/4" evaluate-every={rounds} num-server-rounds={rounds} device="cpu"'
)
RATES = {"fedrolex": 'learning-rate=0.1 learning-rate-schedule="constant"'}
RATE = "learning-rate=0.15"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """What came of a tier.

    Attributes:
        accuracy: of its network on the test pictures.
        parameters, macs: of it, as the run says.
        sent: bytes that a device sends a round, as the run counted them.
        held: numbers that are trained in the network that the run left, by FIARSE those of them that are not zero.
        computed: its multiply-accumulates, as PyTorch counts them.
        promised: bytes of its part as float32.
    """

    accuracy: float
    parameters: int
    macs: int
    sent: int
    held: int
    computed: int
    promised: int

    @property
    def learnt(self) -> bool:
        """Whether it is better than guessing; see the module."""
        return self.accuracy > bound()

    @property
    def as_promised(self) -> bool:
        """Whether it holds, computes and, but for at most 1 % around the numbers, sends what was said.

        A mask has all weights whose magnitude reaches its threshold, so those of equal magnitude there come on top.
        """
        return (
            self.held <= (1 + _TIES) * self.parameters
            and self.computed == self.macs
            and self.promised <= self.sent <= 1.01 * self.promised
        )


def bound() -> float:
    """The accuracy that guessing exceeds about once in 700 times."""
    chance = 1 / CLASSES
    return chance + DEVIATIONS * sqrt(chance * (1 - chance) / TEST)


def part(folder: Path, root: str, dataset: str = "cifar10") -> Path:
    """Write a part of a data set as arrays, the same always.

    Raises:
        SettingError: the data set is not below the root.
    """
    draws = np.random.default_rng(1)
    train, test = (
        examples.select(torch.from_numpy(draws.permutation(len(examples))[:count]))
        for examples, count in zip(SOURCES[dataset].read(Files(root=Path(root))), (TRAIN, TEST), strict=True)
    )
    np.savez(
        folder / "part.npz",
        x_train=train.values.numpy(),
        y_train=train.labels.numpy(),
        x_test=test.values.numpy(),
        y_test=test.labels.numpy(),
    )
    return folder / "part.npz"


def trained(method: str, network: str, rounds: int, data: str, folder: Path) -> tuple[dict[str, Tier], float]:
    """One run of the command: its tiers, and its seconds.

    Raises:
        RuntimeError: it failed.
    """
    rate = RATES.get(method, RATE)
    config = f'method="{method}" model="{network}" {data} {SETTINGS.format(rounds=rounds)} {rate}'
    ran = flotilla_run(folder, config, "--engine", "local", "--processes", "0")
    told = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["last"]["tiers"]
    return {name: _tier(told[name], load(folder, name)) for name in TIERS}, ran.seconds


def _tier(told: dict[str, Any], model: TierModel) -> Tier:
    """Hold what a run says of a tier against the network that it left."""
    card = model.card
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.zeros(2, *card.network.input_shape))
    count = torch.count_nonzero if card.plan.keep < 1 else torch.numel
    return Tier(
        accuracy=told["accuracy"],
        parameters=told["parameters"],
        macs=told["macs"],
        sent=told["bytes_up"],
        held=sum(int(count(parameter)) for parameter in model.parameters()),
        computed=counter.get_total_flops() // 4,
        promised=_BYTES * submodel(card.network, card.plan).numel,
    )


HEADS = ["network", "method", *(f"{tier}: accuracy, share, MACs, MB" for tier in TIERS), "seconds"]


def cells(network: str, method: str, tiers: Mapping[str, Tier], seconds: float) -> list[str]:
    """A line of the table: by tier, accuracy, share of the largest's parameters, millions of MACs, MB sent."""
    most = max(tier.parameters for tier in tiers.values())
    said = [
        f"{100 * one.accuracy:.1f} %, {100 * one.parameters / most:.1f} %, {one.macs / 1e6:.2f} M, {one.sent / 1e6:.3f}"
        for one in tiers.values()
    ]
    return [network, method, *said, f"{seconds:.0f}"]


def verdict(runs: Sequence[Mapping[str, Tier]]) -> tuple[bool, str]:
    """Whether all tiers have learnt and hold what was said; a line that says which have not."""
    tiers = [one for run in runs for one in run.values()]
    learnt, kept = sum(one.learnt for one in tiers), sum(one.as_promised for one in tiers)
    least = min(one.accuracy for one in tiers)
    said = (
        f"{learnt} of {len(tiers)} tiers are above {100 * bound():.1f} % (chance is {100 / CLASSES:.0f} %, {DEVIATIONS}"
        f" standard deviations of {TEST:,} guesses above it; the least is {100 * least:.1f} %);"
        f" {kept} of {len(tiers)} hold, compute and send what was said."
    )
    return learnt == kept == len(tiers), said


def _run(options: Options) -> int:
    """Run, print a table a network and whether every tier has learnt; what has passed is written, if asked."""
    passed = True
    with tempfile.TemporaryDirectory(prefix="foreign-") as folder:
        root = options.data_root or DataSettings(dataset="cifar10").data_root
        file = part(Path(folder), root)
        data = f'dataset="npz:{file.name}" data-root="{file.parent}"'
        for network in NETWORKS:
            if not options.only or any(word in network for word in options.only):
                passed = _table(network, options, data, Path(folder)) and passed
    return 0 if passed else 1


def _table(network: str, options: Options, data: str, folder: Path) -> bool:
    """One network by every method; whether it has passed."""
    lines: list[Sequence[str]] = []
    runs: list[Mapping[str, Tier]] = []
    for method in options.methods or METHODS:
        tiers, seconds = trained(method, network, options.rounds, data, folder / f"{network}-{method}")
        runs.append(tiers)
        lines.append(cells(network, method, tiers, seconds))
        print("  ".join(lines[-1]), flush=True)
    passed, said = verdict(runs)
    print(f"\n{options.rounds} rounds of {DEVICES}\n{table(HEADS, lines)}\n{said}")
    if options.write and passed:
        shown = table(HEADS, lines, markdown=True)
        replace_part(DOCUMENT, f"trained {network}", f"{options.rounds} rounds of {DEVICES}. {said}\n\n{shown}")
    return passed


TASK = Command(_run, defaults={"methods": (), "only": (), "rounds": 24, "data_root": "", "write": False})
