"""What the runs of docs/evidence.md are made of: what all share, data, divisions, methods."""

from __future__ import annotations

from collections.abc import Mapping

from flotilla.settings import Value

Keys = Mapping[str, Value]

TIERS = "a:1@4, b:3/4@3, c:1/2@2, d:1/4@1"

COMMON: Keys = {
    "tiers": TIERS,
    "num-clients": 20,
    "fraction-train": 0.2,
    "local-steps": 12,
    "batch-size": 32,
    "num-server-rounds": 12,
    "evaluate-every": 6,
    "checkpoint-every": 12,
    "fraction-evaluate": 0.0,
    "local-test-fraction": 0.1,
    "slice-at": "server",
    "device": "cpu",
}
_CNN: Keys = {"model": "cnn", "widths": "8, 16, 32, 64"}
DATA: Mapping[str, Keys] = {
    "fashion": {**_CNN, "dataset": "benchmarks.parts:fashion"},
    "cifar": {**_CNN, "dataset": "benchmarks.parts:cifar"},
    "har": {
        "model": "cnn1d",
        "widths": "8, 16, 32, 64",
        "dataset": "benchmarks.parts:har",
        "partition": "natural",
        "num-clients": 21,
        "local-steps": 6,
    },
    "text": {
        "model": "gru",
        "widths": "32, 64, 64",
        "tiers": "a:1@2, b:3/4@2, c:1/2@1, d:1/4@1",
        "sequence-length": 16,
        "learning-rate": 0.5,
        "dataset": "benchmarks.parts:shakespeare",
        "partition": "natural",
    },
}
SPLITS: Mapping[str, Keys] = {
    "iid": {"partition": "iid"},
    "dirichlet-0.6": {"partition": "dirichlet", "dirichlet-alpha": 0.6},
    "dirichlet-0.3": {"partition": "dirichlet", "dirichlet-alpha": 0.3},
}
# Row → its settings beside those that all rows of a part share. The first two groups hold one network, all of it or the
# smallest tier's part, for everybody who takes part.
METHODS: Mapping[str, Keys] = {
    name: {"method": name}
    for name in (
        *("fedavg", "fedprox", "fedavgm", "feddyn"),
        *("smallest", "exclusive"),
        *("heterofl", "fedrolex", "dropout", "fedecover", "fjord", "fiarse", "splitmix"),
        *("nefl", "scalefl"),
        *("depthfl", "depthfl-exclusive", "inclusivefl", "blockwise"),
    )
}
OWN: Mapping[str, Keys] = {
    # w of the distillation reaches 1 within the run.
    "depthfl": {"depthfl-distillation-rounds": 6},
    "depthfl-exclusive": {"depthfl-distillation-rounds": 6},
    # As in the tables of docs/results.md: the network has one last layer for all.
    "inclusivefl": {"inclusivefl-momentum": 0.0, "inclusivefl-private-last-layer": False},
}
# Rows whose every device could carry what it trains, and the smallest part for all.
UNLIKE = (
    *("smallest", "heterofl", "fedrolex", "dropout", "fedecover", "fjord", "splitmix"),
    *("nefl", "scalefl", "depthfl", "inclusivefl", "blockwise"),
)
