"""What both programs run: the authors' setting for MNIST, on Fashion-MNIST, and how much of it.

The setting is that of the released code (`utils.py`; see recipes/heterofl-mnist-iid.toml): 100 devices of five levels,
ten a round, five epochs in batches of ten, 64-128-256-512 channels. A part of it has fewer rounds, the learning rate
falling in their middle all the same, and fewer examples of every device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flotilla.settings import Value

DEVICES = 100
LEVELS = "abcde"
TIERS = "a:1, b:1/2, c:1/4, d:1/8, e:1/16"
EVALUATIONS = 5  # of a run: the released code takes as long for one as for six rounds of this part
ARRAYS = "setting.npz"  # the examples and whose they are, below a part's folder


@dataclass(frozen=True, kw_only=True)
class Part:
    """A row of the authors' table.

    Attributes:
        title: what it is called.
        split: how examples are divided: a `partition`, and what belongs to it.
        control: the same in the released code's control name.
        rounds: the authors'.
        fewer: those of a run that is not the whole.
    """

    title: str
    split: Mapping[str, Value]
    control: str
    rounds: int
    fewer: int


PARTS: Mapping[str, Part] = {
    "iid": Part(title="IID", split={"partition": "iid"}, control="iid", rounds=200, fewer=100),
    "two-classes": Part(
        title="two classes a device",
        split={"partition": "labels", "labels-per-client": 2},
        control="non-iid-2",
        rounds=400,
        fewer=60,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much of a part is run.

    Attributes:
        rounds: of training.
        examples: of a device, in the mean.
    """

    rounds: int
    examples: int

    @property
    def every(self) -> int:
        """Rounds from one evaluation to the next."""
        return max(1, self.rounds // EVALUATIONS)


def extent(part: str, *, whole: bool, rounds: int = 0) -> Extent:
    """As much as the authors', or what a core does in a quarter of an hour.

    Args:
        part: of `PARTS`.
        whole: whether it is all of it.
        rounds: in place of those; 0 is none.
    """
    chosen = PARTS[part].rounds if whole else PARTS[part].fewer
    return Extent(rounds=rounds or chosen, examples=600 if whole else 100)


def settings(extent: Extent, seed: int, folder: str) -> dict[str, Value]:
    """Those of our run.

    Args:
        extent: how much of it.
        seed: of the run, its tiers and first weights.
        folder: where the examples lie.
    """
    return {
        "method": "heterofl",
        "dataset": f"npz:{ARRAYS}",
        "data-root": folder,
        "partition": "natural",
        "local-test-fraction": 0.0,
        "model": "cnn",
        "widths": "64, 128, 256, 512",
        "tiers": TIERS,
        "tier-assignment": "fixed",
        "num-clients": DEVICES,
        "fraction-train": 0.1,
        "fraction-evaluate": 0.0,
        "num-server-rounds": extent.rounds,
        "local-epochs": 5,
        "batch-size": 10,
        "learning-rate": 0.01,
        "learning-rate-schedule": "step",
        "learning-rate-milestones": str(extent.rounds // 2),
        "learning-rate-decay": 0.1,
        "momentum": 0.9,
        "weight-decay": 0.0005,
        "clip-norm": 1.0,
        "evaluate-every": extent.every,
        "seed": seed,
        "device": "cpu",
    }
