"""A small base, and what adapting it is worth.

One client trains a small network on the first half of a data set: plain central training, by `flotilla run`. Then eight
devices of ranks 8, 4 and 2 adapt it to the other half (HeteroFL), from this base and from one that nobody trained. It
shows that a base is used, not how methods compare; three rounds are few.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from benchmarks.job import flotilla_run
from benchmarks.task import Command, Options

# Part → data set, network, rounds and steps of the central training.
PARTS: Mapping[str, tuple[str, str, int, int]] = {
    "digits": ("digits", 'model="vit" widths="64, 128" blocks="2"', 4, 200),
    "fashion": ("fashion", 'model="vit" widths="64, 128" blocks="2"', 3, 300),
    "shakespeare": ("shakespeare", 'model="transformer" widths="64, 128" blocks="2" tied=false', 3, 300),
}
CENTRAL = 'method="fedavg" num-clients=1 batch-size=64 learning-rate=0.05'
ADAPT = (
    'method="heterofl" adapter="lora:8" tiers="a:8, b:4, c:2" num-clients=8 local-steps=20 batch-size=32'
    " learning-rate=0.05 start-new-heads=true"
)


def accuracy(run: Path) -> float:
    """Of the whole network in the last round."""
    found: float = json.loads((run / "summary.json").read_text())["last"]["accuracy"]
    return found


def _run(options: Options) -> int:
    """Train a base for each part into a run folder below `root`, adapt it, and print the accuracies."""
    for part in options.parts:
        data, network, rounds, steps = PARTS[part]
        folder = options.root / "runs" / f"pretrained-{part}"
        common = f'{network} device="cpu"' + (f' data-root="{options.data_root}"' if options.data_root else "")
        first, second = (f'dataset="benchmarks.halves:{data}_{half}"' for half in ("first", "second"))
        central = f"{common} {CENTRAL} {first} local-steps={steps} num-server-rounds={options.rounds or rounds}"
        flotilla_run(folder, central, "--engine", "local")
        print(f"{part}: base of accuracy {accuracy(folder):.1%} on the first half: {folder}")
        adapt = f"{common} {ADAPT} {second} num-server-rounds={options.rounds or 3}"
        for words, start in (("from that base", f' start="{folder}"'), ("from one that is drawn", "")):
            run = folder.with_name(f"{folder.name}-{words.split()[-1]}")
            flotilla_run(run, adapt + start, "--engine", "local")
            print(f"{part}: adapted to the second half {words}: {accuracy(run):.1%}")
    return 0


TASK = Command(_run, PARTS, {"rounds": 0, "data_root": "", "root": Path()})
