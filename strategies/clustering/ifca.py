"""IFCA (Ghosh, Chung, Yin, Ramchandran, NeurIPS 2020): k states, and every node trains the one that fits it best.

Algorithm 1: the server sends all k states; node i finds ĵ = argmin_j F_i(θ_j) on its own training examples and trains
from θ_ĵ. *Model averaging* (option II) takes the mean over those who chose a cluster; *gradient averaging* (option I)
divides by all participants: θ_j ← θ_j − γ/|M_t| Σ_{i: ĵ=j} g_i, so a small cluster takes small steps. Both are ratios
of sums per coordinate here, and differ in the denominators only; with parts of the network, "all participants" are all
who held the coordinate. With *weight sharing* everything but the exits is one state that all nodes average into.

A cluster that nobody chose keeps its state. The first cluster's initial state is that of a run without clusters, so
k = 1 is that run; identical states are never told apart, because ties go to the first. A run may draw its initial
states again until no cluster is left nearly empty in the beginning, which the authors' code for CIFAR does without the
paper saying so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from logging import WARNING
from math import inf
from statistics import fmean
from typing import Any

from flwr.common import log
from torch import Tensor

from models.algebra.average import pool
from models.variants.cluster_states import trunk
from protocol import NodeId
from strategies.clustering.base import Basis, Clustering, by_cluster, initial_purpose, named
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.stateful import Saved
from strategies.exchange.update import AcceptedUpdate, ClientUpdate, cluster_of

AVERAGING = ("model", "gradient")


class IFCA(Clustering):
    """A fixed number of clusters; nodes say which one they are in, every round anew.

    Args:
        basis: see `Clustering`.
        clusters: k.
        averaging: one of `AVERAGING`.
        shared: whether all clusters share everything but the exits.
        restarts: how often the initial states may be drawn again.
        least_share: share of the nodes that every cluster has to have for the initial states to be kept.
    """

    def __init__(
        self,
        basis: Basis,
        clusters: int,
        averaging: str = "model",
        *,
        shared: bool = False,
        restarts: int = 0,
        least_share: float = 0.0,
    ) -> None:
        super().__init__(basis)
        self._averaging, self._restarts, self._least_share = averaging, restarts, least_share
        self._shared = trunk(basis.layout) if shared else frozenset()
        self._chosen: dict[NodeId, int] = {}  # what every node said last
        self._lonely: set[int] = set()  # clusters that a warning named
        self.states = {0: self.states[0]} | {number: basis.make() for number in range(1, clusters)}
        self.draw()

    @property
    def shared(self) -> frozenset[str]:
        """The trunk, or nothing."""
        return self._shared

    def draw(self, attempt: int = 0) -> None:
        """Draw initial states; what is shared is the first cluster's."""
        for number, state in self.states.items():
            for name, tensor in self.basis.draw(initial_purpose(number, attempt)).items():
                state.tensors[name].copy_(tensor)
        self.loaded(0)

    def start(self, ask: Callable[[], Sequence[tuple[int, float]]]) -> None:
        """Draw again until every cluster has its share of the nodes, as the authors' code for CIFAR does.

        Where no attempt gets there, the one whose smallest cluster is the largest is taken; on ties the lowest loss.
        """
        if not self._restarts or len(self.states) == 1:
            return
        given = self.states[0].flat.clone()  # which need not have been drawn
        standings = []
        for attempt in range(self._restarts + 1):
            if attempt:
                self.draw(attempt)
            answers = ask()
            sizes = Counter(cluster for cluster, _ in answers)
            share = min(sizes[cluster] for cluster in self.states) / max(1, len(answers))
            loss = fmean(loss for _, loss in answers) if answers else inf
            standings.append((share, -loss, -attempt))
            if share >= self._least_share:
                return
        best = -max(standings)[2]
        log(WARNING, "no initial states give every cluster its share of nodes; attempt %d comes nearest", best)
        self.draw(best)
        if not best:
            self.states[0].flat.copy_(given)
            self.loaded(0)

    def loaded(self, number: int) -> None:
        """Share the trunk of a state with the others."""
        for name in self._shared:
            for state in self.states.values():
                state.tensors[name].copy_(self.states[number].tensors[name])

    def members(self) -> dict[int, list[NodeId]]:
        """Nodes by the cluster that they chose last."""
        return by_cluster(self._chosen, list(self.states))

    def assigned(self, node: NodeId) -> int | None:
        """The cluster that a node chose last; None if it has not trained yet."""
        return self._chosen.get(node)

    def sent_to(self, node: NodeId) -> tuple[int, ...]:
        """All of them."""
        del node
        return tuple(self.states)

    def target(self, assignment: TrainAssignment, update: ClientUpdate) -> int | None:
        """The cluster that the node says it trained.

        Raises:
            Rejected: it names none.
        """
        del assignment
        return cluster_of(update.metrics, len(self.states)) if len(self.states) > 1 else 0

    def step_of(self, number: int, accepted: Sequence[AcceptedUpdate]) -> list[AcceptedUpdate]:
        """All replies where clusters share a trunk, so that it takes the same step in all of them."""
        return list(accepted) if self._shared else super().step_of(number, accepted)

    def close(self, accepted: Sequence[AcceptedUpdate], round_number: int) -> None:
        """Remember who chose what, and put together what clusters have in common."""
        self._chosen.update({one.assignment.node.id: one.cluster for one in accepted if one.cluster is not None})
        averages = [state.average for state in self.states.values()]
        own = [name for name in self.basis.layout.tensors if name not in self._shared]
        if self._averaging == "gradient":
            pool(averages, own, denominators_only=True)
        if self._shared:
            pool(averages, sorted(self._shared))
        self._warn(round_number)

    def report(self, accepted: Sequence[AcceptedUpdate]) -> dict[str, Any]:
        """Sizes, and who chose what in this round."""
        if len(self.states) == 1:
            return {}
        now = {one.assignment.node.id: one.cluster for one in accepted if one.cluster is not None}
        return named(main=self.main, sizes=self.sizes(), assignments=by_cluster(now, list(self.states)))

    def saved_assignments(self) -> Saved:
        """What every node chose last."""
        return {}, {"chosen": [[node, number] for node, number in self._chosen.items()]}

    def restore_assignments(self, tensors: Mapping[str, Tensor], values: Any) -> None:
        """Take up `saved_assignments`."""
        del tensors
        self._chosen = {node: int(number) for node, number in values["chosen"]}

    def _warn(self, round_number: int) -> None:
        """Say so, once, when a cluster has lost all its nodes: one state may have been far better from the start."""
        empty = {number for number, size in self.sizes().items() if not size} - self._lonely
        for number in sorted(empty):
            line = "round %d: nobody is in cluster %d; other initial states may help (ifca-restarts, another seed)"
            log(WARNING, line, round_number, number)
        self._lonely |= empty
