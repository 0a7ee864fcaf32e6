"""Clusters: which global state a node gets, and which one its reply changes.

A strategy has one global state, or one per cluster; everything else about a method stays as it is. `Clustering` keeps
the states by number and answers for every node. This module also has the answer of a run without clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from models.algebra.axes import Layout
from protocol import NodeId
from strategies.aggregation.global_state import GlobalState
from strategies.exchange.assignment import Participant, TrainAssignment
from strategies.exchange.node import Node, in_order
from strategies.exchange.report import LocalScore
from strategies.exchange.stateful import RoundOutcome, Saved, Stateful
from strategies.exchange.update import AcceptedUpdate, ClientUpdate
from strategies.tiers.tier import Tier

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What clusters are made of.

    Attributes:
        layout: of the network.
        make: gives a new state, all zeros.
        draw: gives the initial tensors of a cluster at an attempt; see `initial_purpose`.
        seed: of the run.
        learning_rate: by 1-based round.
        noisy: whether replies carry noise of mean zero from their codec, so that their norms are too long.
    """

    layout: Layout
    make: Callable[[], GlobalState]
    draw: Callable[[str], Tensors]
    seed: int
    learning_rate: Callable[[int], float]
    noisy: bool = False


def initial_purpose(cluster: int, attempt: int = 0) -> str:
    """What an initial state is drawn for; the first cluster's is that of a run without clusters."""
    number = f" {cluster}" if cluster else ""
    return f"initial state{number}" + (f", attempt {attempt}" if attempt else "")


class Clustering(Stateful):
    """One state for everybody.

    Args:
        basis: see there.

    Attributes:
        states: cluster → its state.
        chooses: whether `target` has to say which state a reply changes; else it is the only one.
    """

    begins = True
    WATCHES: ClassVar[bool] = False  # whether `expect` and `note` want to hear of every request and reply

    def __init__(self, basis: Basis) -> None:
        self.basis = basis
        self.states: dict[int, GlobalState] = {0: basis.make()}
        self.chooses = type(self).target is not Clustering.target

    @property
    def main(self) -> int:
        """The largest cluster, whose state stands for them all; the lowest number on ties."""
        if len(self.states) == 1:
            return next(iter(self.states))
        sizes = self.sizes()
        return min(self.states, key=lambda number: (-sizes.get(number, 0), number))

    @property
    def shared(self) -> frozenset[str]:
        """Tensors that all clusters have in common."""
        return frozenset()

    def sizes(self) -> dict[int, int]:
        """Nodes by cluster, as far as they are known."""
        return {number: len(members) for number, members in self.members().items()}

    def members(self) -> dict[int, list[NodeId]]:
        """Ids by cluster, as far as they are known."""
        return {}

    def assigned(self, node: NodeId) -> int | None:
        """The cluster that a node is known to be in."""
        del node
        return 0

    def known_in(self, cluster: int, nodes: Sequence[Node]) -> Sequence[Node]:
        """Those of some nodes that are known to be in a cluster; all where none is."""
        if type(self).assigned is Clustering.assigned:
            return nodes
        return [node for node in nodes if self.assigned(node.id) == cluster] or nodes

    def sent_to(self, node: NodeId) -> tuple[int, ...]:
        """The clusters whose states a node is sent; of several it takes the one that fits its examples best."""
        del node
        return (0,)

    def path(self, node: NodeId) -> tuple[int, ...]:
        """The clusters that a node's own came from and itself, oldest first; () where there is nothing to choose."""
        del node
        return ()

    def participants(
        self, chosen: Sequence[tuple[Node, float]], tiers: Mapping[NodeId, Tier], round_number: int
    ) -> list[Participant]:
        """Whom a method plans for: the chosen nodes, each with the weight of its reply, in the round's order."""
        return [
            self.participant(node, tiers[node.id], weight=weight, round_number=round_number) for node, weight in chosen
        ]

    def participant(self, node: Node, tier: Tier, *, weight: float, round_number: int) -> Participant:
        """What a chosen node is told by its cluster.

        Args:
            node: who was chosen.
            tier: its tier.
            weight: of its reply.
            round_number: of the round.
        """
        clusters = self.sent_to(node.id)
        return Participant(node=node, tier=tier, weight=weight, round_number=round_number, clusters=clusters)

    def past(self, number: int) -> tuple[Tensor, Tensors]:
        """A state that `sent_to` names and that is none of the present ones, flat and by name."""
        raise KeyError(number)

    def loaded(self, number: int) -> None:
        """A state was loaded from outside: others take from it what they share with it."""

    def start(self, ask: Callable[[], Sequence[tuple[int, float]]]) -> None:
        """Before round 1: `ask` gives the cluster and the loss of every node that answers, in the present states."""
        del ask

    def begin(self, round_number: int, state: Tensor) -> None:
        """Begin a round."""
        del round_number, state
        for one in self.states.values():
            one.average.reset()

    def expect(self, assignments: Sequence[TrainAssignment]) -> None:
        """Hear what the round's nodes are asked; called where `WATCHES`."""

    def target(self, assignment: TrainAssignment, update: ClientUpdate) -> int | None:
        """The cluster whose state a reply changes; None for one that only says where its node belongs.

        Raises:
            Rejected, ValueError: it lacks what it has to say.
        """
        del assignment, update
        return 0

    def note(self, assignment: TrainAssignment, update: ClientUpdate) -> None:
        """Remember what an accepted reply says of its node, if the round is not abandoned; called where `WATCHES`."""

    def close(self, accepted: Sequence[AcceptedUpdate], round_number: int) -> None:
        """All replies of a round that counts are in; states are still what they were."""

    def step_of(self, number: int, accepted: Sequence[AcceptedUpdate]) -> list[AcceptedUpdate]:
        """The replies that a cluster's step depends on; none leaves its state as it is."""
        return [one for one in accepted if one.cluster == number]

    def learn(self, outcome: RoundOutcome) -> None:
        """All states are what they are after the round; there may be new ones from now on."""
        if not outcome.report.abandoned:
            self.settle()
            outcome.report.clusters = self.report(outcome.accepted)

    def settle(self) -> None:
        """Give new clusters their states."""

    def report(self, accepted: Sequence[AcceptedUpdate]) -> dict[str, Any]:
        """What the round's line of metrics says; {} without clusters."""
        del accepted
        return {}

    def local(self, scores: Sequence[LocalScore]) -> dict[str, dict[str, float]]:
        """Results on the nodes' own test examples by cluster: of the one that a node chose for this, or is in."""
        found: dict[int, list[LocalScore]] = {}
        for score in scores:
            cluster = score.metrics.get("cluster", self.assigned(score.node))
            if cluster is not None and cluster in self.states:
                found.setdefault(int(cluster), []).append(score)
        keys = ("loss", "accuracy", "accuracy-test-identity", "accuracy-best-on-path", "accuracy-end-of-path")
        return {
            str(cluster): {"nodes": len(found[cluster])}
            | {
                key.replace("-", "_"): _mean(found[cluster], key)
                for key in keys
                if any(key in one.metrics for one in found[cluster])
            }
            for cluster in sorted(found)
        }

    def checkpoint(self) -> Saved:
        """Every state, and who is where."""
        tensors, values = self.saved_assignments()
        for number, state in self.states.items():
            tensors |= {self.saved_name(number) + name: tensor for name, tensor in state.checkpoint().items()}
        return tensors, values

    def restore(self, tensors: Mapping[str, Tensor], values: Any) -> None:
        """Take up a `checkpoint`; afterwards there are as many states as there were then."""
        self.restore_assignments(tensors, values)
        for number, state in self.states.items():
            start = self.saved_name(number)
            state.restore({k.removeprefix(start): tensor for k, tensor in tensors.items() if k.startswith(start)})

    def saved_name(self, number: int) -> str:
        """What the names of a cluster's tensors begin with in files; nothing where there is one state."""
        return f"cluster{number}/" if len(self.states) > 1 else ""

    def saved_assignments(self) -> Saved:
        """Who is where."""
        return {}, {}

    def restore_assignments(self, tensors: Mapping[str, Tensor], values: Any) -> None:
        """Take up `saved_assignments`, and make as many states as there were then."""
        del tensors, values


def _mean(scores: Sequence[LocalScore], key: str) -> float:
    """Over all test examples of those that say it."""
    saying = [one for one in scores if key in one.metrics]
    return sum(one.examples * one.metrics[key] for one in saying) / sum(one.examples for one in saying)


def by_cluster(assignments: Mapping[NodeId, int], numbers: Sequence[int]) -> dict[int, list[NodeId]]:
    """Ids by cluster, in order; clusters without members too."""
    found: dict[int, list[NodeId]] = {number: [] for number in numbers}
    for node in sorted(assignments, key=in_order):
        if assignments[node] in found:
            found[assignments[node]].append(node)
    return found


def named(**fields: Any) -> dict[str, Any]:
    """Fields for a line of metrics; tables by cluster get text keys, as JSON has them."""
    return {
        key: {str(number): value for number, value in field.items()} if isinstance(field, Mapping) else field
        for key, field in fields.items()
    }
