"""What the local engine knows of its clients without asking them: how the data are divided says it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from data import DataSettings, InputFacts, labels_of, train_sizes
from flotilla.local.base import addresses_of


class LocalDirectory:
    """The clients of a division, see `strategies.exchange.fleet.Directory`.

    Args:
        settings: of data that are divided.
    """

    def __init__(self, settings: DataSettings) -> None:
        self._settings = settings
        self.addresses: Sequence[int] = addresses_of(settings.num_clients)

    @cached_property
    def examples(self) -> NDArray[np.int64]:
        """Training examples, by partition id."""
        return train_sizes(self._settings)

    def labels(self, node: int, facts: str) -> tuple[int, ...]:
        """The labels of a client."""
        return labels_of(self._settings, node, InputFacts.from_json(facts) if facts else None)


def directory_of(settings: DataSettings, nodes: int) -> LocalDirectory | None:
    """What is known of so many clients; None where they own their data, or somebody has none."""
    if settings.own or nodes != settings.num_clients:
        return None
    directory = LocalDirectory(settings)
    return directory if (directory.examples >= 1).all() else None
