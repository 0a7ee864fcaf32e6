"""Which examples there are and whose they are, written once for both programs.

Ours reads a file of arrays and divides it by whose an example is (`partition = "natural"`). The released code reads the
files of MNIST, and, where it goes on from a checkpoint (`--resume_mode 2`), split and first weights from there; so the
checkpoint that it finds has ours. It gives levels by the number of a device (`fix`): the first twenty have level a.
Ours are drawn, so its devices are ours in the order of their tiers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.experiments.setting.plan import ARRAYS, DEVICES, LEVELS, PARTS, Extent, settings
from data.examples import Examples
from data.files import Files
from data.partition import partition
from data.settings import DataSettings
from data.sources import SOURCES
from models.networks.bases import first_state
from models.networks.spec import NetworkSpec
from models.randomness import generator
from server_app.config import resolve
from strategies import FlowerStrategy
from strategies.tiers.tier import Assignment

_DATA = "fashion-mnist"
_IMAGES, _LABELS = 2051, 2049  # the magic numbers of MNIST's files
# Of the released code's network the parameters, in the order of its layers: convolution, scaler, norm, ReLU and pool by
# turns, no last pool, then pooling, flattening and a classifier.
_PARAMETERS = (
    *(f"blocks.{5 * stage + layer}.{kind}" for stage in range(4) for layer in (0, 2) for kind in ("weight", "bias")),
    *(f"blocks.21.{kind}" for kind in ("weight", "bias")),
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a part's files lie.

    Attributes:
        folder: of the part.
        control: what the released code calls the run.
    """

    folder: Path
    control: str

    @property
    def arrays(self) -> Path:
        """What ours reads."""
        return self.folder / ARRAYS

    @property
    def images(self) -> Path:
        """Folder of MNIST's files, for the released code."""
        return self.folder / "reference" / "data" / "MNIST" / "raw"

    @property
    def checkpoint(self) -> Path:
        """What it goes on from."""
        return self.folder / "reference" / "output" / "model" / f"{self.control}_checkpoint.pt"


def place_of(root: Path, part: str, extent: Extent, seed: int) -> Place:
    """Where the files of a run lie below a folder."""
    modes = "-".join(f"{level}1" for level in LEVELS)
    control = f"{seed}_MNIST_label_conv_1_{DEVICES}_0.1_{PARTS[part].control}_fix_{modes}_bn_1_1"
    folder = root / "runs" / "setting" / f"{part}-{extent.examples}-seed-{seed}"
    return Place(folder=folder.absolute(), control=control)


def prepare(place: Place, part: str, extent: Extent, seed: int, data_root: str) -> None:
    """Write what is missing of both programs' files; the same always.

    Raises:
        SettingError: the data set is not below its root.
    """
    if not place.arrays.exists():
        _write_arrays(place, part, extent, seed, data_root)
    if not place.checkpoint.exists():
        _write_reference(place, extent, seed)


def _write_arrays(place: Place, part: str, extent: Extent, seed: int, data_root: str) -> None:
    root = data_root or DataSettings(dataset=_DATA).data_root
    train, test = SOURCES[_DATA].read(Files(root=Path(root)))
    count = DEVICES * extent.examples
    drawn = np.sort(generator(seed, 0, "server", "part").permutation(len(train))[:count])
    train = train.select(torch.from_numpy(drawn))
    divided = DataSettings(
        dataset=_DATA,
        num_clients=DEVICES,
        seed=seed,
        **{key.replace("-", "_"): value for key, value in PARTS[part].split.items()},  # type: ignore[arg-type]
    )
    owner = np.full(count, -1)
    for device, rows in enumerate(partition(train.labels.numpy(), divided)):
        owner[rows] = device
    place.folder.mkdir(parents=True, exist_ok=True)
    beside = place.arrays.with_suffix(".part.npz")
    np.savez(
        beside,
        x_train=_pixels(train),
        y_train=train.labels.numpy(),
        client_train=owner,
        x_test=_pixels(test),
        y_test=test.labels.numpy(),
    )
    beside.replace(place.arrays)


def _pixels(examples: Examples) -> NDArray[np.uint8]:
    """Grey pictures [N, height, width]."""
    pixels: NDArray[np.uint8] = examples.values.numpy()[:, 0]
    return pixels


def _write_reference(place: Place, extent: Extent, seed: int) -> None:
    with np.load(place.arrays) as arrays:
        owner, labels, test_labels = arrays["client_train"], arrays["y_train"], arrays["y_test"]
        place.images.mkdir(parents=True, exist_ok=True)
        for part, name in (("train", "train"), ("test", "t10k")):
            _write_idx(place.images / f"{name}-images-idx3-ubyte", _IMAGES, arrays[f"x_{part}"])
            _write_idx(place.images / f"{name}-labels-idx1-ubyte", _LABELS, arrays[f"y_{part}"])
    strategy = strategy_of(place, extent, seed)
    ours = in_their_order(strategy)
    rows = [np.flatnonzero(owner == device) for device in ours]
    held = [np.unique(labels[one]) for one in rows]
    told = {
        "epoch": 1,
        "data_split": {"train": _lists(rows), "test": _lists(tests(test_labels, held, seed))},
        "label_split": _lists(held),
        "model_dict": in_their_names(strategy.network, seed),
        "logger": None,
    }
    place.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    # Its own format; nothing here ever reads one.
    torch.save(told, place.checkpoint)


def strategy_of(place: Place, extent: Extent, seed: int) -> FlowerStrategy:
    """The server's side of our run."""
    return resolve({}, overrides=settings(extent, seed, str(place.folder))).strategy()


def in_their_order(strategy: FlowerStrategy) -> NDArray[np.int64]:
    """Whom of ours each device of the released code is, [100]: those of level a, then those of b, and so on."""
    of = strategy.settings
    fixed = Assignment("fixed", of.tiers, proportions=of.proportions, nodes=of.nodes, seed=of.seed)
    tiers = fixed.positions(range(DEVICES), 1)
    assert tiers is not None
    return np.argsort(tiers, kind="stable")


def tests(labels: NDArray[np.int64], held: Sequence[NDArray[np.int64]], seed: int) -> list[NDArray[np.int64]]:
    """Test examples of each device, for the released code's local accuracy: every class dealt to those who have it."""
    draws = generator(seed, 0, "server", "local tests")
    found: list[list[NDArray[np.int64]]] = [[] for _ in held]
    for label in np.unique(labels):
        holders = [device for device, classes in enumerate(held) if label in classes]
        dealt = np.array_split(draws.permutation(np.flatnonzero(labels == label)), max(1, len(holders)))
        for device, rows in zip(holders, dealt, strict=False):
            found[device].append(rows)
    return [np.concatenate(rows) for rows in found]


def in_their_names(network: NetworkSpec, seed: int) -> dict[str, torch.Tensor]:
    """The first weights of our run, as its network calls them: both have the same layers in the same order."""
    return dict(zip(_PARAMETERS, first_state(network, seed).values(), strict=True))


def _lists(rows: Sequence[NDArray[np.int64]]) -> dict[int, list[int]]:
    return {number: one.tolist() for number, one in enumerate(rows)}


def _write_idx(file: Path, magic: int, values: NDArray[np.generic]) -> None:
    """Bytes behind a head of big-endian numbers: what they are, and how many of each dimension."""
    head = np.array([magic, *values.shape], dtype=">i4").tobytes()
    file.write_bytes(head + values.astype(np.uint8).tobytes())
