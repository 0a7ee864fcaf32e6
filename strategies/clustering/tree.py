"""The parameter tree of CFL (Sattler et al. 2020, §III-D): where every node stands, and how a newcomer finds its place.

The root is the cluster of everybody. Where a cluster was cut, its vertex of the tree keeps the model that it had come
to and the updates that its members made to it; the two groups go on as its children. A node that was not there walks
down from the root: it trains the model of each cut, and goes to the child that holds the most similar update.

Nodes are known by their ids at every level, so the leaves always partition those that have been assigned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.algebra.axes import Layout
from models.algebra.submodel import Submodel
from protocol import NodeId
from strategies.clustering.coordinates import Sample
from strategies.clustering.linkage import Cut
from strategies.clustering.updates import Updates, cosines_with
from strategies.exchange.node import in_order

ROOT = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A cluster that was cut.

    Attributes:
        round_number: when.
        model: the state that its members had received then, flat float32.
        sample: the coordinates that their updates are kept on.
        values, held: the updates; see `Updates`.
        sides: member → 0 or 1, in the rows' order; members that could not be assigned are not among them.
        children: the numbers of both groups.
    """

    round_number: int
    model: Tensor
    sample: Sample
    values: NDArray[np.float32]
    held: NDArray[np.bool_] | None
    sides: Mapping[NodeId, int]
    children: tuple[int, int]

    def side_of(self, part: Submodel, difference: Tensor) -> int | None:
        """The child that holds the most similar update; None where there is nothing to compare.

        Args:
            part: what the newcomer held of the network.
            difference: its update to `model`.
        """
        value, held = self.sample.read(part, difference)
        cosines = cosines_with(self.values, self.held, value, held)
        if not np.isfinite(cosines).any():
            return None
        return list(self.sides.values())[int(np.nanargmax(cosines))]


@dataclass(slots=True)
class Tree:
    """Clusters by number: the root is 0, and every cut gives its children the next two.

    Attributes:
        splits: cluster that was cut → what is kept of it.
        places: node → the cluster where it stands; a cluster that was cut for nodes that still have to walk on.
    """

    splits: dict[int, Split] = field(default_factory=dict)
    places: dict[NodeId, int] = field(default_factory=dict)

    @property
    def leaves(self) -> tuple[int, ...]:
        """The clusters that train, ascending."""
        numbers = {ROOT, *(child for split in self.splits.values() for child in split.children)}
        return tuple(sorted(numbers - set(self.splits)))

    def place(self, node: NodeId) -> int:
        """Where a node stands; one that is new stands at the root."""
        return self.places.get(node, ROOT)

    def path(self, number: int) -> tuple[int, ...]:
        """The clusters from the root down to this one."""
        above = {child: parent for parent, split in self.splits.items() for child in split.children}
        found = [number]
        while found[0] != ROOT:
            found.insert(0, above[found[0]])
        return tuple(found)

    def members(self, leaf: int) -> list[NodeId]:
        """The nodes that are assigned to a leaf, in order of their ids."""
        return sorted((node for node, place in self.places.items() if place == leaf), key=in_order)

    def cut(
        self, number: int, cut: Cut[NodeId], updates: Updates, sample: Sample, model: Tensor, round_number: int
    ) -> tuple[int, int]:
        """Cut a leaf; only members of the cut are assigned to its children, the others have to walk.

        Returns:
            The numbers of the two groups.

        Raises:
            ValueError: it is no leaf, or somebody in the cut does not stand there.
        """
        sides = {node: side for side, group in enumerate(cut.groups) for node in group}
        if number not in self.leaves or any(self.place(node) != number for node in sides):
            raise ValueError(f"cluster {number} cannot be cut between {cut.groups}")
        rows = [i for i, node in enumerate(updates.members) if node in sides]
        children = (2 * len(self.splits) + 1, 2 * len(self.splits) + 2)
        self.splits[number] = Split(
            round_number=round_number,
            model=model,
            sample=sample,
            values=updates.values[rows],
            held=None if updates.held is None else updates.held[rows],
            sides={updates.members[i]: sides[updates.members[i]] for i in rows},
            children=children,
        )
        for node, side in sides.items():
            self.places[node] = children[side]
        return children

    def checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything, as tensors and JSON."""
        tensors: dict[str, Tensor] = {}
        for number, split in self.splits.items():
            tensors[f"tree/{number}/model"] = split.model
            tensors[f"tree/{number}/places"] = torch.from_numpy(split.sample.places)
            tensors[f"tree/{number}/values"] = torch.from_numpy(split.values)
            if split.held is not None:
                tensors[f"tree/{number}/held"] = torch.from_numpy(split.held)
        rows = [
            [number, split.round_number, list(split.children), [list(pair) for pair in split.sides.items()]]
            for number, split in self.splits.items()
        ]
        return tensors, {"splits": rows, "places": [[node, place] for node, place in self.places.items()]}

    def restore(self, layout: Layout, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take up a `checkpoint` of a tree over this network."""
        self.places = {node: int(place) for node, place in values["places"]}
        self.splits = {}
        for number, round_number, children, sides in values["splits"]:
            held = tensors.get(f"tree/{number}/held")
            self.splits[number] = Split(
                round_number=round_number,
                model=tensors[f"tree/{number}/model"],
                sample=Sample(layout, tensors[f"tree/{number}/places"].numpy()),
                values=tensors[f"tree/{number}/values"].numpy(),
                held=None if held is None else held.numpy(),
                sides={node: int(side) for node, side in sides},
                children=(children[0], children[1]),
            )
