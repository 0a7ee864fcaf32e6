"""Nodes that are known without asking: an engine that made its nodes itself says, as columns, what each would say.

Nothing is held of a node that nobody looks at: no object, no message, no entry in a table but a number a column.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Protocol, overload

import numpy as np
from numpy.typing import NDArray

from protocol import Hello, NodeId
from strategies.exchange.node import Node
from strategies.tiers.tier import Tier

Positions = NDArray[np.intp]


class Directory(Protocol):
    """What an engine knows of the nodes that it made. Their ids are 0 to n - 1."""

    @property
    def addresses(self) -> Sequence[int]:
        """Node ids of flwr, by id."""

    @property
    def examples(self) -> NDArray[np.int64]:
        """Training examples, by id, at least 1."""

    def labels(self, node: int, facts: str) -> tuple[int, ...]:
        """The labels that a node would say, where requests carry these facts."""


_KEPT = 4096  # nodes that were looked at


class _Known(Node):
    """A node of a fleet; what it would say is put together when somebody wants to know."""

    __slots__ = ("_said", "_say")

    def __init__(self, address: int, node: int, examples: int, say: Callable[[int, int], Hello]) -> None:
        self.address, self.id, self.examples = address, node, examples
        self._say, self._said = say, list[Hello]()

    @property
    def hello(self) -> Hello:  # type: ignore[override]
        """What it would say."""
        if not self._said:
            assert isinstance(self.id, int)  # a partition id
            self._said.append(self._say(self.id, self.examples))
        return self._said[0]


class Fleet(Sequence[Node]):
    """Nodes in order of their ids, made when they are looked at; all say the same but for id, examples and labels.

    Args:
        hello: what one of them said.
        ids: ascending.
        addresses: by id.
        examples: of each of `ids`.
        labels: of an id; None where nodes are not asked.

    Attributes:
        ids, examples: see above.
    """

    def __init__(
        self,
        hello: Hello,
        ids: Sequence[int],
        *,
        addresses: Sequence[int],
        examples: NDArray[np.int64],
        labels: Callable[[int], tuple[int, ...]] | None,
    ) -> None:
        self._hello, self._addresses, self._labels = hello, addresses, labels
        self.ids, self.examples = ids, examples
        self._made: dict[int, Node] = {}

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, position: int) -> Node: ...
    @overload
    def __getitem__(self, position: slice) -> list[Node]: ...
    def __getitem__(self, position: int | slice) -> Node | list[Node]:
        """Make a node, or some."""
        if isinstance(position, slice):
            return [self[one] for one in range(*position.indices(len(self)))]
        node = self.ids[position]
        if node not in self._made:
            if len(self._made) >= _KEPT:
                self._made.clear()
            self._made[node] = _Known(self._addresses[node], node, int(self.examples[position]), self._said)
        return self._made[node]

    def _said(self, node: int, examples: int) -> Hello:
        labels = () if self._labels is None else self._labels(node)
        return replace(self._hello, node=node, examples=examples, labels=labels)

    def find(self, node: NodeId) -> int | None:
        """Position of an id; None if it is not here."""
        if not isinstance(node, int):
            return None
        at = bisect_left(self.ids, node)
        return at if at < len(self.ids) and self.ids[at] == node else None

    def some(self, positions: Positions) -> Fleet:
        """The nodes at these positions, ascending."""
        return self._with([self.ids[i] for i in positions.tolist()], self.examples[positions])

    def without(self, nodes: Collection[NodeId]) -> Fleet:
        """All but these."""
        away = [at for at in map(self.find, nodes) if at is not None]
        return self.some(np.delete(np.arange(len(self)), away))

    def of_at_most(self, examples: int) -> Fleet:
        """The same, none of whom counts with more examples."""
        return self._with(self.ids, np.minimum(self.examples, examples))

    def _with(self, ids: Sequence[int], examples: NDArray[np.int64]) -> Fleet:
        return Fleet(self._hello, ids, addresses=self._addresses, examples=examples, labels=self._labels)


class TierTable(Mapping[NodeId, Tier]):
    """The tiers of a fleet.

    Args:
        fleet: whose.
        tiers: all of them.
        positions: of each node's tier among them.

    Attributes:
        tiers, positions: see above.
    """

    def __init__(self, fleet: Fleet, tiers: Sequence[Tier], positions: Positions) -> None:
        self._fleet, self.tiers, self.positions = fleet, tiers, positions

    def __getitem__(self, node: NodeId) -> Tier:
        at = self._fleet.find(node)
        if at is None:
            raise KeyError(node)
        return self.tiers[int(self.positions[at])]

    def __iter__(self) -> Iterator[NodeId]:
        return iter(self._fleet.ids)

    def __len__(self) -> int:
        return len(self._fleet)

    def of(self, tiers: Collection[Tier]) -> Positions:
        """Positions of the nodes in one of these tiers."""
        wanted = [i for i, tier in enumerate(self.tiers) if tier in tiers]
        return np.flatnonzero(np.isin(self.positions, wanted))

    def counts(self) -> dict[Tier, int]:
        """How many nodes are in each tier, in the order in which the tiers are first met."""
        numbers, first, counts = np.unique(self.positions, return_index=True, return_counts=True)
        return {self.tiers[numbers[i]]: int(counts[i]) for i in np.argsort(first)}


def mean_examples(nodes: Sequence[Node]) -> float:
    """Of the nodes that are there, as they are believed; 0 without nodes."""
    if isinstance(nodes, Fleet):
        return int(nodes.examples.sum()) / len(nodes) if len(nodes) else 0.0
    return fmean(node.examples for node in nodes) if nodes else 0.0


def in_tiers(wanted: Collection[Tier], nodes: Sequence[Node], tiers: Mapping[NodeId, Tier]) -> Sequence[Node]:
    """The nodes that are in one of some tiers."""
    if isinstance(nodes, Fleet) and isinstance(tiers, TierTable):
        return nodes.some(tiers.of(wanted))
    return [node for node in nodes if node.id in tiers and tiers[node.id] in wanted]
