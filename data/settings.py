"""What a run says about its data: the flat run-config keys as one checked, hashable record."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from data import synthetic_groups as planted
from data.augment import AUGMENTATIONS
from data.files import Files
from data.schemes import SCHEMES
from data.sources import SOURCES
from models.errors import SettingError


def _default_root() -> str:
    return os.environ.get("FLOTILLA_DATA") or str(Path.home() / ".cache" / "flotilla" / "data")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which data, divided how; immutable and hashable, so that caches can be keyed by it.

    The run-config key of a field is its name with hyphens, and a field's default is the key's.

    Attributes:
        dataset: a name in `SOURCES`.
        data_root: absolute folder of the files; "" stands for $FLOTILLA_DATA or else ~/.cache/flotilla/data, and a
            relative one is taken from the folder of the process that reads it.
        partition: how the training examples are divided among clients, a name in `SCHEMES`; "natural" only where the
            data set says who an example is from.
        num_clients: number of clients, at least 1.
        dirichlet_alpha: concentration of partition "dirichlet", above 0; small means unlike clients.
        labels_per_client: number of classes each client has under partition "labels".
        image_size: side in pixels to which the images of "image-folder" are resized.
        sequence_length: tokens of one input of a text, at most 4,096; 0 is the data set's own.
        vocabulary_size: different words of "sst2", padding and unknown among them: 3 to 100,000.
        augment: what happens to training batches of images, a name in `AUGMENTATIONS`.
        local_test_fraction: share of each client's examples kept for its own test, at least 0 and below 1.
        planted: "" or groups of clients that are made to differ; see `data.synthetic_groups`.
        seed: seed of the run, at least 0.

    Raises:
        SettingError: a value that is not allowed; names its key.
    """

    dataset: str = "digits"
    data_root: str = ""
    partition: str = "iid"
    num_clients: int = 20
    dirichlet_alpha: float = 0.5
    labels_per_client: int = 2
    image_size: int = 32
    sequence_length: int = 0
    vocabulary_size: int = 8000
    augment: str = "none"
    local_test_fraction: float = 0.1
    planted: str = ""
    seed: int = 1

    def __post_init__(self) -> None:
        # Resolved here, so that equal settings mean equal files even if the environment changes in between.
        root = Path(self.data_root or _default_root()).expanduser().absolute()
        object.__setattr__(self, "data_root", str(root))
        source = SOURCES[self.dataset]  # or an error that says what there is
        _require("partition", self.partition, self.partition in SCHEMES, "one of " + ", ".join(SCHEMES))
        _require("num-clients", self.num_clients, self.num_clients >= 1, "a whole number of at least 1")
        _require(
            "dirichlet-alpha", self.dirichlet_alpha, 0 < self.dirichlet_alpha < math.inf, "a finite number above 0"
        )
        _require(
            "labels-per-client", self.labels_per_client, self.labels_per_client >= 1, "a whole number of at least 1"
        )
        _require("image-size", self.image_size, self.image_size >= 1, "a whole number of at least 1")
        _require(
            "sequence-length", self.sequence_length, 0 <= self.sequence_length <= 4096, "a whole number from 0 to 4096"
        )
        _require(
            "vocabulary-size",
            self.vocabulary_size,
            3 <= self.vocabulary_size <= 100_000,
            "a whole number from 3 to 100000",
        )
        _require("augment", self.augment, self.augment in AUGMENTATIONS, "one of " + ", ".join(AUGMENTATIONS))
        _require(
            "augment",
            self.augment,
            source.images or self.augment == "none",
            f'"none" with dataset {self.dataset!r}, whose inputs are no images',
        )
        _require(
            "partition",
            self.partition,
            source.owned or self.partition != "natural",
            f"one of {', '.join(name for name in SCHEMES if name != 'natural')} with dataset {self.dataset!r},"
            " which does not say who its examples are from",
        )
        _require(
            "local-test-fraction",
            self.local_test_fraction,
            0 <= self.local_test_fraction < 1,
            "a number from 0 to below 1",
        )
        planted.parse(self.planted)
        _require("seed", self.seed, self.seed >= 0, "a whole number of at least 0")

    @property
    def files(self) -> Files:
        """What the tensors of the data set depend on."""
        return Files(
            root=Path(self.data_root),
            image_size=self.image_size,
            sequence_length=self.sequence_length,
            vocabulary_size=self.vocabulary_size,
        )

    @classmethod
    def from_config(cls, config: Mapping[str, bool | int | float | str]) -> Self:
        """Read the keys of these settings from a run configuration; absent keys get their default, others are ignored.

        Raises:
            SettingError: a value of the wrong type or outside what is allowed.
        """
        values: dict[str, Any] = {}
        for field in fields(cls):
            key = field.name.replace("_", "-")
            values[field.name] = _typed(key, config.get(key, field.default), type(field.default))
        return cls(**values)


_KINDS = {int: "a whole number", float: "a number", str: "text"}


def _typed(key: str, value: object, kind: type) -> object:
    """Return `value` as `kind`; a whole number will do for a number, but true and false are neither."""
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise SettingError(key, value, _KINDS[kind])
    return value


def _require(key: str, value: object, holds: bool, allowed: str) -> None:
    if not holds:
        raise SettingError(key, value, allowed)
