"""Which runs the table of rules for unlike ranks stands for (docs/ranks.md), and which chose their learning rates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flotilla.settings import Value
from flotilla.studies.plan import Cell

Keys = Mapping[str, Value]

SEEDS = (1, 2, 3)
TUNING_SEED = 11  # none of those
TIERS = "a:16, b:8, c:4, d:2, e:1"


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data set in two halves, and a network.

    Attributes:
        halves: name in `benchmarks.halves`, without `_first`, on which the base is trained, and `_second`.
        network: its settings.
        base: settings of the central training of the base.
        searched: learning rates that `python -m benchmarks experiments ranks tune` tries.
        rates: row of `FAMILIES` → the one that it found best.
    """

    halves: str
    network: Keys
    base: Keys
    searched: Sequence[float]
    rates: Mapping[str, float]

    def keys(self, part: str) -> Keys:
        """The network on one part of the data: `first`, `second` or `tuning`."""
        return {**QUIET, **self.network, "dataset": f"benchmarks.halves:{self.halves}_{part}"}


QUIET: Keys = {"device": "cpu", "local-test-fraction": 0.0}
BASE: Keys = {
    "method": "fedavg",
    "tiers": "a:1",
    "num-clients": 1,
    "batch-size": 64,
    "learning-rate": 0.05,
    "num-server-rounds": 4,
}
ROUNDS: Keys = {
    "num-clients": 10,
    "fraction-train": 0.5,
    "local-steps": 6,
    "batch-size": 16,
    "num-server-rounds": 10,
    "evaluate-every": 10,
    "checkpoint-every": 10,
    "start-new-heads": True,
    "slice-at": "server",
}
ADAPTER: Keys = {"adapter": "lora:16", "tiers": TIERS}
# What stands between frozen factors begins at zero, and reaches little of a layer.
BETWEEN: Keys = {"adapter-alpha": 64.0}

DATA: Mapping[str, Data] = {
    "images": Data(
        halves="small_fashion",
        network={"model": "vit", "widths": "64, 128", "blocks": "2", "heads": 2},
        base={"local-steps": 200},
        searched=(0.4, 0.8),
        rates={
            "full fine-tuning": 0.4,
            "all at rank 16": 0.8,
            "all at rank 1": 0.8,
            "rbla": 0.4,
            "flexlora": 0.8,
            "flora": 0.8,
            "ffa-lora": 0.8,
            "fed-sb": 0.4,
            "ravan": 0.8,
        },
    ),
    "text": Data(
        halves="letters",
        network={"model": "transformer", "widths": "64, 128", "blocks": "2", "heads": 2, "sequence-length": 8},
        base={"local-steps": 600},
        searched=(0.2, 0.4, 0.8),
        rates={
            "full fine-tuning": 0.2,
            "all at rank 16": 0.4,
            "all at rank 1": 0.4,
            "rbla": 0.4,
            "flexlora": 0.4,
            "flora": 0.4,
            "ffa-lora": 0.4,
            "fed-sb": 0.2,
            "ravan": 0.2,
        },
    ),
}
SPLITS: Mapping[str, Keys] = {
    "iid": {"partition": "iid"},
    "dirichlet": {"partition": "dirichlet", "dirichlet-alpha": 0.5},
}
# Row → its settings beside those that all rows share.
METHODS: Mapping[str, Keys] = {
    "full fine-tuning": {"method": "fedavg", "tiers": "a:1"},
    "all at rank 16": {**ADAPTER, "method": "fedavg"},
    "all at rank 1": {**ADAPTER, "method": "smallest"},
    "zero-padding": {**ADAPTER, "method": "zero-padding"},
    "rbla": {**ADAPTER, "method": "rbla"},
    "prelort": {**ADAPTER, "method": "prelort"},
    "flexlora": {**ADAPTER, "method": "flexlora"},
    "hlora": {**ADAPTER, "method": "hlora"},
    "raflora": {**ADAPTER, "method": "raflora"},
    "flora": {**ADAPTER, "method": "flora"},
    "ffa-lora": {**ADAPTER, "method": "ffa-lora"},
    "fed-sb": {**ADAPTER, **BETWEEN, "method": "fed-sb"},
    "ravan": {**ADAPTER, **BETWEEN, "method": "ravan"},
    "hetlora": {**ADAPTER, "method": "hetlora"},
    "fslora": {**ADAPTER, "method": "fslora"},
    "florist": {**ADAPTER, "method": "florist"},
}
# Row whose learning rate is searched → the others that take it: rules of one kind, so that no rule is searched more
# than another of its kind.
FAMILIES: Mapping[str, Sequence[str]] = {
    "full fine-tuning": (),
    "all at rank 16": (),
    "all at rank 1": (),
    "rbla": ("zero-padding", "prelort", "hetlora", "fslora"),
    "flexlora": ("hlora", "raflora", "florist"),
    "flora": (),
    "ffa-lora": (),
    "fed-sb": (),
    "ravan": (),
}
PARTS: Mapping[str, tuple[str, str]] = {f"{data}-{split}": (data, split) for data in DATA for split in SPLITS}


def cells(parts: Sequence[str], seeds: Sequence[int], methods: Sequence[str], bases: Mapping[str, Path]) -> list[Cell]:
    """The runs of the table, seed by seed, so that one that is stopped has all rows of the first seeds.

    Args:
        parts: of `PARTS`.
        seeds: of the runs.
        methods: of `METHODS`.
        bases: data set → run folder of its base.
    """
    return [
        Cell(row=row_of(part, method), seed=seed, keys={**_keys(part, method, "second", bases), "seed": seed})
        for seed in seeds
        for part in parts
        for method in methods
    ]


def tuning_cells(bases: Mapping[str, Path]) -> Iterator[tuple[str, str, float, Cell]]:
    """The runs that choose learning rates: data set, row of `FAMILIES`, rate, run."""
    for data in bases:
        part = f"{data}-dirichlet"
        for method in FAMILIES:
            for rate in DATA[data].searched:
                keys = {**_keys(part, method, "tuning", bases), "learning-rate": rate, "seed": TUNING_SEED}
                yield data, method, rate, Cell(row=f"{row_of(part, method)}, {rate:g}", seed=TUNING_SEED, keys=keys)


def row_of(part: str, method: str) -> str:
    """What a row is called where the parts are together."""
    return f"{part}: {method}"


def rate_of(data: str, method: str) -> float:
    """Learning rate of a row: that of its family."""
    own = next(first for first, others in FAMILIES.items() if method in (first, *others))
    return DATA[data].rates.get(own, DATA[data].searched[0])


def _keys(part: str, method: str, half: str, bases: Mapping[str, Path]) -> dict[str, Value]:
    data, split = PARTS[part]
    return {
        **DATA[data].keys(half),
        **ROUNDS,
        **SPLITS[split],
        **METHODS[method],
        "start": str(bases[data]),
        "learning-rate": rate_of(data, method),
    }
