"""What it costs to hold a base in fewer bits, or a part of it: bytes, memory and accuracy by tier.

One client trains a small network on the first half of the classes of `digits`; eight devices of ranks 8, 4 and 2 adapt
it to the second half (as `pretrain` does), once for every way to hold the base. Three rounds are few: it shows what the
forms cost beside each other, not how far adapting goes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.document import DOCS, replace_part, table
from benchmarks.experiments.runs import Keys, metrics_of, spread
from benchmarks.task import Command, Options
from client_app.app import app
from flotilla.local.grid import LocalGrid, contexts
from models.cost import base_bytes, training_bytes
from server_app.config import resolve
from server_app.run import Run
from strategies.round.parts import kept_part

DOCUMENT = DOCS / "adapters.md"
COMMON: Keys = {"model": "vit", "widths": "64, 128", "blocks": "2", "device": "cpu", "learning-rate": 0.05}
CENTRAL: Keys = {
    "dataset": "benchmarks.halves:digits_first",
    "method": "fedavg",
    "tiers": "a:1",
    "num-clients": 1,
    "batch-size": 64,
    "local-steps": 200,
    "num-server-rounds": 4,
    "evaluate-every": 4,
}
ADAPT: Keys = {
    "dataset": "benchmarks.halves:digits_second",
    "method": "heterofl",
    "adapter": "lora:8",
    "num-clients": 8,
    "batch-size": 32,
    "local-steps": 20,
    "num-server-rounds": 3,
    "evaluate-every": 3,
    "start-new-heads": True,
}
FORMS: Mapping[str, Keys] = {
    "float32": {"tiers": "a:8, b:4, c:2"},
    "bfloat16": {"tiers": "a:8, b:4, c:2", "base-precision": "bfloat16"},
    "int8": {"tiers": "a:8, b:4, c:2", "base-precision": "int8"},
    "b and c: half of every width": {"tiers": "a:8, b:4 base=1/2, c:2 base=1/2"},
    "b and c: half of the inner widths": {"tiers": "a:8, b:4 mlp=1/2 heads=1/2, c:2 mlp=1/2 heads=1/2"},
    "b: int8; c: the same, of half of the inner widths": {"tiers": "a:8, b:4 int8, c:2 mlp=1/2 heads=1/2 int8"},
}
TIERS = "abc"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a device of the smallest tier holds.

    Attributes:
        base: bytes of the base.
        memory: bytes to train, beside the process.
    """

    base: int
    memory: int


def held(keys: Keys) -> Held:
    """By the cost model."""
    config = resolve({}, overrides=keys, check_files=False)
    strategy = config.strategy()
    plan = kept_part(strategy, strategy.context(1), strategy.settings.tiers[-1])
    batch = int(keys["batch-size"])
    return Held(base=base_bytes(strategy.network, plan), memory=training_bytes(strategy.network, plan, batch))


def cells(form: str, of: Held, runs: Sequence[Mapping[str, float]]) -> list[str]:
    """A line of the table; accuracies in percent, by tier."""
    return [
        form,
        f"{of.base:,}",
        f"{of.memory / 2**20:.2f}",
        *(spread(run[tier] for run in runs) for tier in TIERS),
    ]


HEADS = ["base", "base of c, bytes", "step of c, MiB", *(f"accuracy of {tier}, %" for tier in TIERS)]


def _trained_base(folder: Path) -> None:
    config = resolve({}, overrides={**COMMON, **CENTRAL, "run-dir": str(folder)})
    Run(config, LocalGrid(app, contexts(config.flat, config.num_clients)), write=lambda line: None).execute()


def _run(options: Options) -> int:
    """Train the base, adapt it in every form with every seed, and print the table."""
    lines = []
    with tempfile.TemporaryDirectory(prefix="bases-") as folder:
        _trained_base(Path(folder) / "base")
        for form, own in FORMS.items():
            keys: Keys = {**COMMON, **ADAPT, **own, "start": f"{folder}/base"}
            runs = []
            for seed in options.seeds:
                last = metrics_of({**keys, "seed": seed})[-1]
                runs.append({tier: last["tiers"][tier]["accuracy"] for tier in TIERS})
            lines.append(cells(form, held(keys), runs))
            print("  ".join(lines[-1]), flush=True)
    said = f"Last of three rounds, seeds {', '.join(map(str, options.seeds))}; mean and standard deviation."
    print(f"\n{said}\n{table(HEADS, lines)}")
    if options.write:
        replace_part(DOCUMENT, "bases", f"{said}\n\n{table(HEADS, lines, markdown=True)}")
    return 0


TASK = Command(_run, defaults={"seeds": (1, 2, 3), "write": False})
