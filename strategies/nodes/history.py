"""What was learnt of the nodes: one row for every node that was ever chosen or asked, kept as columns.

Selectors look at all nodes every round; as columns, 100,000 of them are a few array operations. Everything here is part
of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from protocol import NodeId
from strategies.exchange.node import in_order

# Column → its value for a node of which nothing is known. All are float64, which holds whole numbers up to 2^53.
COLUMNS = {
    "loss": np.nan,  # of the last accepted training reply: mean loss (nats)
    "loss_square": np.nan,  # mean of the squared loss per example, if it was asked for
    "seconds": np.nan,  # wall seconds
    "steps": np.nan,  # optimiser steps
    "tier": -1.0,  # position of the tier that it trained in
    "round": 0.0,  # the round of that reply
    "selected": 0.0,  # how often it was chosen
}
_NUMBER = {name: i for i, name in enumerate(COLUMNS)}


class NodeHistory:
    """Columns by name, rows by node.

    Args:
        vector: coordinates of the vector that is kept of every node; 0 is none.

    Attributes:
        nodes: ids by row; new ones come at the end.
    """

    def __init__(self, vector: int = 0) -> None:
        self._rows: dict[NodeId, int] = {}
        self.nodes: list[NodeId] = []
        self._values = np.empty((len(COLUMNS), 0))
        self._vectors = np.empty((0, vector), dtype=np.float32)

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, node: NodeId) -> int:
        """Row of a node; a new one if it has none."""
        if node in self._rows:
            return self._rows[node]
        row = self._rows[node] = len(self.nodes)
        self.nodes.append(node)
        if row == self._values.shape[1]:
            self._grow(max(16, 2 * row))
        return row

    def rows(self, nodes: Sequence[NodeId]) -> NDArray[np.intp]:
        """Rows of many nodes."""
        for node in nodes:
            if node not in self._rows:
                self.row(node)
        return np.fromiter(map(self._rows.__getitem__, nodes), dtype=np.intp, count=len(nodes))

    def column(self, name: str) -> NDArray[np.float64]:
        """One of `COLUMNS`, a view; it may be longer than there are rows, and lasts until the next new row."""
        return self._values[_NUMBER[name]]  # type: ignore[no-any-return]

    def of(self, rows: NDArray[np.intp]) -> dict[str, NDArray[np.float64]]:
        """All of `COLUMNS` for some rows, copies."""
        return {name: self._values[number, rows] for name, number in _NUMBER.items()}

    def last_counted(self, node: NodeId) -> int:
        """Round of a node's last reply that counted; 0 if there was none."""
        return int(self._values[_NUMBER["round"], self._rows[node]]) if node in self._rows else 0

    def choose(self, rows: NDArray[np.intp]) -> int:
        """Note that nodes were chosen, and say how many ever were."""
        selected = self._values[_NUMBER["selected"]]
        selected[rows] += 1
        return int(np.count_nonzero(selected))

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Vectors by row, NaN where unknown; as `column`."""
        return self._vectors

    def learn(self, node: NodeId, round_number: int, tier: int, metrics: Mapping[str, float]) -> None:
        """Note what an accepted training reply said; what it did not say is unknown."""
        row = self.row(node)
        for name, value in (
            ("loss", metrics.get("loss", np.nan)),
            ("loss_square", metrics.get("loss-square", np.nan)),
            ("seconds", metrics.get("seconds", np.nan)),
            ("steps", metrics.get("steps", np.nan)),
            ("tier", tier),
            ("round", round_number),
        ):
            self._values[_NUMBER[name], row] = value

    def checkpoint(self) -> tuple[dict[str, Tensor], list[NodeId]]:
        """Tensors and the ids in their order."""
        nodes = sorted(self._rows, key=in_order)
        rows = self.rows(nodes)
        tensors = {f"nodes/{name}": torch.from_numpy(self.column(name)[rows]) for name in COLUMNS}
        if self._vectors.shape[1]:
            tensors["nodes/vectors"] = torch.from_numpy(self._vectors[rows])
        return tensors, nodes

    def restore(self, tensors: Mapping[str, Tensor], nodes: Sequence[Any]) -> None:
        """Take up a `checkpoint`."""
        rows = self.rows(nodes)
        for name in COLUMNS:
            self.column(name)[rows] = tensors[f"nodes/{name}"].numpy()
        if self._vectors.shape[1]:
            self._vectors[rows] = tensors["nodes/vectors"].numpy()

    def _grow(self, capacity: int) -> None:
        values = np.repeat(np.array(list(COLUMNS.values()))[:, None], capacity, axis=1)
        values[:, : self._values.shape[1]] = self._values
        vectors = np.full((capacity, self._vectors.shape[1]), np.nan, dtype=np.float32)
        vectors[: len(self._vectors)] = self._vectors
        self._values, self._vectors = values, vectors
