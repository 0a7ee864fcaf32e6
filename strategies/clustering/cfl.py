"""CFL (Sattler, Müller, Samek, TNNLS 2020; arXiv 1910.01991): one cluster of everybody, cut in two again and again.

Every cluster trains by itself. When its mean update has become small while its members' have not, it is cut where their
updates are least similar (`split`, `linkage`), and both groups go on from the state at hand. What the members wanted
stays in the parameter tree (`tree`), at which nodes that were not there find their place later: they are sent the model
of the cut, and their reply places them and changes nothing else.

A cut goes by the replies of one round, so only who replied can be assigned in it; the paper has everybody reply.
Updates are compared on common coordinates (`coordinates`), and the model that is kept is the one they were made at.
Under a quantiser (`qsgd`) norms are those before encoding, which the nodes say; see `updates`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.algebra.submodel import Submodel, split
from models.randomness import generator
from protocol import NodeId
from strategies.aggregation import parameter_share
from strategies.clustering.base import Basis, Clustering, Tensors, by_cluster, named
from strategies.clustering.coordinates import Sample, choose
from strategies.clustering.split import SplitRule, Verdict, judge
from strategies.clustering.tree import ROOT, Tree
from strategies.clustering.updates import Updates
from strategies.exchange.assignment import Participant, TrainAssignment
from strategies.exchange.node import Node
from strategies.exchange.stateful import Saved
from strategies.exchange.update import AcceptedUpdate, ClientUpdate
from strategies.tiers.tier import Tier

_MOST_VALUES = 1 << 24  # of all updates of one cluster in one round: 64 MiB
_LEAST_SAMPLE = 1024


@dataclass(slots=True, kw_only=True)
class _Row:
    """An update at the coordinates of its cluster."""

    node: NodeId
    values: NDArray[np.float32]
    held: NDArray[np.bool_]
    weight: float
    share: float


class CFL(Clustering):
    """Clusters by recursive bipartition.

    Args:
        basis: see `Clustering`.
        rule: when a cluster is cut.
        first_round: no cut before this round.
        most_clusters: no cut beyond this number of clusters; 0 is no limit.
        sample: coordinates on which updates are compared, at most.
    """

    WATCHES = True

    def __init__(self, basis: Basis, rule: SplitRule, first_round: int, most_clusters: int, sample: int) -> None:
        super().__init__(basis)
        self._rule, self._first_round, self._most, self._size = rule, first_round, most_clusters, sample
        self.tree = Tree()
        self._reference: float | None = None  # mean norm of members in the first round
        self._samples: dict[int, Sample] = {}
        self._rows: dict[int, list[_Row]] = {}
        self._walked: dict[NodeId, int] = {}  # nodes that found the next cluster on their way this round
        self._verdicts: dict[int, Verdict] = {}
        self._cut: list[tuple[int, tuple[int, int]]] = []  # clusters that are cut when the round has been averaged

    def members(self) -> dict[int, list[NodeId]]:
        """Nodes by leaf; those on their way are in none."""
        return by_cluster(self.tree.places, self.tree.leaves)

    def assigned(self, node: NodeId) -> int | None:
        """A node's leaf; None while it is on its way."""
        place = self.tree.place(node)
        return place if place in self.states else None

    def sent_to(self, node: NodeId) -> tuple[int, ...]:
        """Where the node stands: its leaf, or the cut that it has to pass next."""
        return (self.tree.place(node),)

    def path(self, node: NodeId) -> tuple[int, ...]:
        """From the root's cut to the node's leaf; () before the first cut, and for nodes on their way."""
        place = self.tree.place(node)
        return self.tree.path(place) if place in self.states and self.tree.splits else ()

    def participant(self, node: Node, tier: Tier, *, weight: float, round_number: int) -> Participant:
        """A node on its way gets the plan of the cut that it has to pass: the part it held then can be compared."""
        usual = super().participant(node, tier, weight=weight, round_number=round_number)
        cut = self.tree.splits.get(self.tree.place(node.id))
        return usual if cut is None else replace(usual, round_number=cut.round_number, trains=False)

    def past(self, number: int) -> tuple[Tensor, Tensors]:
        """The model of a cut."""
        flat = self.tree.splits[number].model
        return flat, split(flat, self.basis.layout.shapes)

    def begin(self, round_number: int, state: Tensor) -> None:
        """Forget what the round before was about."""
        super().begin(round_number, state)
        self._samples, self._rows, self._walked, self._verdicts, self._cut = {}, {}, {}, {}, []

    def expect(self, assignments: Sequence[TrainAssignment]) -> None:
        """Choose, for every leaf, the coordinates on which its members' updates are compared."""
        parts: dict[int, list[Submodel]] = {}
        for one in assignments:
            parts.setdefault(self.tree.place(one.node.id), []).append(one.part)
        for leaf in self.tree.leaves:
            if leaf in parts:
                most = min(self._size, max(_LEAST_SAMPLE, _MOST_VALUES // len(parts[leaf])))
                draws = generator(self.basis.seed, 0, "server", f"cfl coordinates {leaf}")
                self._samples[leaf] = choose(self.basis.layout, parts[leaf], most, draws)

    def target(self, assignment: TrainAssignment, update: ClientUpdate) -> int | None:
        """The leaf that the node was sent; None for a node on its way.

        Raises:
            ValueError: under a codec with noise the node did not say how long its difference was.
        """
        self._share(assignment.part, update)
        place = self.tree.place(assignment.node.id)
        return place if place in self.states else None

    def note(self, assignment: TrainAssignment, update: ClientUpdate) -> None:
        """Keep an update until the round ends, or see where a node on its way goes next."""
        node, part = assignment.node.id, update.part or assignment.part
        place = self.tree.place(node)
        if place in self.tree.splits:
            cut = self.tree.splits[place]
            side = cut.side_of(part, update.difference)
            if side is not None:
                self._walked[node] = cut.children[side]
        else:
            values, held = self._samples[place].read(part, update.difference)
            row = _Row(
                node=node,
                values=values,
                held=held,
                weight=update.metrics["num-examples"],
                share=self._share(part, update),
            )
            self._rows.setdefault(place, []).append(row)

    def _share(self, part: Submodel, update: ClientUpdate) -> float:
        """Length of a difference before encoding over that of what arrived; see `Updates.shares`."""
        return parameter_share(self.basis.layout, part, update) if self.basis.noisy else 1.0

    def close(self, accepted: Sequence[AcceptedUpdate], round_number: int) -> None:
        """Test every leaf, and note those that are cut while their state is still what the updates refer to."""
        del accepted
        rate = self.basis.learning_rate(round_number)
        updates = {leaf: _updates(rows) for leaf, rows in self._rows.items()}
        for leaf, found in updates.items():  # who trained a leaf is in it
            self.tree.places.update(dict.fromkeys(found.members, leaf))
        self.tree.places.update(self._walked)
        if self._reference is None and ROOT in updates:
            self._reference = float(updates[ROOT].norms().mean()) / rate or None
        for leaf in sorted(updates):
            if self._reference is None:
                break
            verdict = self._verdicts[leaf] = judge(updates[leaf], self._rule, self._reference * rate)
            full = self._most and len(self.tree.leaves) >= self._most
            if verdict.accepted and verdict.cut is not None and round_number >= self._first_round and not full:
                model, sample = self.states[leaf].flat.clone(), self._samples[leaf]
                children = self.tree.cut(leaf, verdict.cut, updates[leaf], sample, model, round_number)
                self._cut.append((leaf, children))
        self._rows = {}

    def settle(self) -> None:
        """Give both groups of every cut the state that their cluster has come to."""
        for leaf, (first, second) in self._cut:
            state = self.states.pop(leaf)
            self.states[second] = self.basis.make()
            self.states[second].become(state)
            self.states[first] = state
        self.states = dict(sorted(self.states.items()))

    def report(self, accepted: Sequence[AcceptedUpdate]) -> dict[str, Any]:
        """Sizes, who trained what, the norms that the tests saw (over the reference), and the cuts of this round."""
        now = {one.assignment.node.id: one.cluster for one in accepted if one.cluster is not None}
        norms = {
            leaf: {"mean": v.mean, "largest": v.largest}
            | ({} if v.cut is None else {"cross": v.cut.cross, "intra": v.cut.intra})
            for leaf, v in self._verdicts.items()
        }
        return named(
            main=self.main,
            sizes=self.sizes(),
            assignments=by_cluster(now, sorted(set(now.values()))),
            norms=norms,
            splits={leaf: list(children) for leaf, children in self._cut},
            walked=by_cluster(self._walked, sorted(set(self._walked.values()))),
        )

    def saved_assignments(self) -> Saved:
        """The tree, and what norms are measured by."""
        tensors, values = self.tree.checkpoint()
        return tensors, {"tree": values, "reference": self._reference}

    def restore_assignments(self, tensors: Mapping[str, Tensor], values: Any) -> None:
        """Take up `saved_assignments`."""
        self.tree.restore(self.basis.layout, tensors, values["tree"])
        self._reference = values["reference"]
        spare = list(self.states.values())
        self.states = {leaf: spare.pop() if spare else self.basis.make() for leaf in self.tree.leaves}


def _updates(rows: Sequence[_Row]) -> Updates:
    held = np.stack([row.held for row in rows])
    return Updates(
        members=[row.node for row in rows],
        values=np.stack([row.values for row in rows]),
        held=None if held.all() else held,
        weights=np.array([row.weight for row in rows]),
        shares=np.array([row.share for row in rows]),
    )
