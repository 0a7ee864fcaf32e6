"""The two jobs that every library does, as one description that is handed to all of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

_CLASSES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A round's work, and the network that it is done on.

    Attributes:
        name: on the command line.
        about: in words.
        network: "flat": two 3x3 convolutions without padding, a 2x2 pool, a hidden layer. "stages": 3x3 convolutions,
            each with batch norm and ReLU and all but the last with a 2x2 pool, then the mean over places.
        input_shape: channels, height, width.
        widths: channels and units.
        parameters: trained numbers, which every library has to arrive at.
        clients, per_round: how many there are, how many of them train in a round.
        examples: of a client.
        batch_size, epochs: of a client's training.
        learning_rate, momentum, weight_decay, clip_norm: of SGD; 0.0 leaves the last three out.
        warm_up: rounds before the first one that counts.
        turns: rounds that count, unless the command line says otherwise.
    """

    name: str
    about: str
    network: str
    input_shape: tuple[int, int, int]
    widths: tuple[int, ...]
    parameters: int
    clients: int
    per_round: int
    examples: int
    batch_size: int
    epochs: int
    learning_rate: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    warm_up: int = 1
    turns: int = 5
    classes: int = _CLASSES

    @property
    def steps(self) -> int:
        """Optimiser steps of a round, by all of its clients."""
        return self.per_round * self.epochs * ceil(self.examples / self.batch_size)

    def to_json(self) -> str:
        """Write it as text."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Job:
        """Read what `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        shapes: dict[str, Any] = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return Job(**{**values, **shapes})


JOBS = {
    job.name: job
    for job in (
        Job(
            name="cifar10",
            about="the size of pfl-research's CIFAR-10 benchmark",
            network="flat",
            input_shape=(3, 32, 32),
            widths=(32, 64, 128),
            parameters=1_626_442,
            clients=1000,
            per_round=50,
            examples=50,
            batch_size=10,
            epochs=1,
        ),
        Job(
            name="digits",
            about="the size of the default job, with the full network on every client",
            network="stages",
            input_shape=(1, 8, 8),
            widths=(32, 64, 128, 256),
            parameters=391_370,
            clients=20,
            per_round=20,
            examples=64,
            batch_size=16,
            epochs=3,
            momentum=0.9,
            weight_decay=5e-4,
            clip_norm=1.0,
            turns=7,
        ),
    )
}
