"""The comparisons of docs/results.md: what all rows of a table share, how the data are divided, and what differs."""

from __future__ import annotations

from dataclasses import dataclass

from protocol import Scalar

Keys = dict[str, Scalar]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A table whose rows differ in the method only.

    Attributes:
        title: what it is about; the name of its part in docs/results.md and of its picture.
        common: run settings that all rows share.
        partitions: name → settings of a division of the data.
        methods: name of the row → settings that make it.
        rounds, seeds: unless the command says otherwise.
    """

    title: str
    common: Keys
    partitions: dict[str, Keys]
    methods: dict[str, Keys]
    rounds: int = 60
    seeds: tuple[int, ...] = (1,)


_FASHION: Keys = {
    "dataset": "fashion-mnist",
    "model": "cnn",
    "widths": "16, 32, 64, 128",
    "num-clients": 100,
    "fraction-train": 0.1,
    "local-epochs": 1,
    "batch-size": 32,
    "local-test-fraction": 0.0,
    "slice-at": "server",
    "device": "cpu",
}
_BOTH: dict[str, Keys] = {
    "iid": {"partition": "iid"},
    "dirichlet": {"partition": "dirichlet", "dirichlet-alpha": 0.5},
}

WIDTH = Comparison(
    title="results",
    common={**_FASHION, "tiers": "a:1, b:1/2, c:1/4, d:1/8, e:1/16"},
    partitions=_BOTH,
    methods={
        "fedavg": {"method": "fedavg"},
        "smallest": {"method": "smallest"},
        "exclusive": {"method": "exclusive"},
        "heterofl": {"method": "heterofl"},
        "fedrolex": {"method": "fedrolex"},
        "dropout": {"method": "dropout"},
        "fedecover": {"method": "fedecover"},
        "fjord": {"method": "fjord"},
        "fjord-kd": {"method": "fjord", "fjord-distillation": True},
    },
)

_NO_KD: Keys = {"depthfl-distillation": False}
# Rows whose tiers are not the others': about as many parameters as DepthFL's, and the rates of ScaleFL's paper.
_SIZED: Keys = {"widths": "21, 42, 83, 166", "tiers": "a:1, b:73/100, c:53/100, d:17/50"}
_SCALEFL: Keys = {"tiers": "a:1@4, b:3/4@3, c:7/10@2, d:7/10@1"}
DEPTH = Comparison(
    title="depth",
    # A quarter of the devices in each of four tiers, as in DepthFL; T is 10 rounds, so that w reaches 1 within the run.
    common={**_FASHION, "tiers": "a:1@4, b:3/4@3, c:1/2@2, d:1/4@1", "depthfl-distillation-rounds": 10},
    partitions={"iid": _BOTH["iid"]},
    methods={
        "fedavg": {"method": "fedavg"},
        "feddyn": {"method": "feddyn"},
        "heterofl": {"method": "heterofl"},
        "heterofl, sized as depthfl": {"method": "heterofl", **_SIZED},
        "fjord-kd": {"method": "fjord", "fjord-distillation": True},
        "fiarse": {"method": "fiarse"},
        "splitmix": {"method": "splitmix"},
        "scalefl": {"method": "scalefl"},
        "scalefl, its rates": {"method": "scalefl", **_SCALEFL},
        "nefl": {"method": "nefl"},
        "inclusivefl": {"method": "inclusivefl", "inclusivefl-momentum": 0.0, "inclusivefl-private-last-layer": False},
        "depthfl": {"method": "depthfl"},
        "depthfl, no distillation": {"method": "depthfl", **_NO_KD},
        "depthfl, no FedDyn": {"method": "depthfl", "dynamic-alpha": "0"},
        "depthfl, neither": {"method": "depthfl", "dynamic-alpha": "0", **_NO_KD},
        "depthfl, FedDyn scaled by holders": {"method": "depthfl", "dynamic-scaling": "holders"},
        "depthfl, plain exits": {"method": "depthfl", "exits": "plain"},
        "depthfl, plain exits, no FedDyn": {"method": "depthfl", "dynamic-alpha": "0", "exits": "plain"},
        "depthfl, only a": {"method": "depthfl-exclusive", "depthfl-exclusive-depth": 4},
        "depthfl, only depth 1": {"method": "depthfl-exclusive", "depthfl-exclusive-depth": 1},
    },
    rounds=21,
)

TEXT = Comparison(
    title="text",
    common={
        "dataset": "sst2",
        "model": "transformer",
        "widths": "64, 128",
        "blocks": "4",
        "vocabulary-size": 4000,
        "sequence-length": 32,
        "num-clients": 20,
        "fraction-train": 0.5,
        "local-steps": 20,
        "batch-size": 16,
        "local-test-fraction": 0.0,
        "slice-at": "server",
        "device": "cpu",
        "tiers": "large:1@4, middle:1@3, small:1@1",
        "method": "inclusivefl",
        "learning-rate": 0.05,
    },
    partitions={"iid": _BOTH["iid"]},
    methods={
        "β = 0": {"inclusivefl-momentum": 0.0},
        "β = 0.2": {"inclusivefl-momentum": 0.2},
        "β = 0.5": {"inclusivefl-momentum": 0.5},
        "all shared": {
            "inclusivefl-momentum": 0.0,
            "inclusivefl-private-last-layer": False,
            "inclusivefl-private-classifier": False,
        },
    },
    rounds=20,
    seeds=(1, 2, 3, 4, 5),
)

COMPARISONS = {"width": WIDTH, "depth": DEPTH, "text": TEXT}
