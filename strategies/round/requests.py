"""The messages of a round: each a pure function of the context, what a node is asked, and the states it is about.

The nonce is the exception: it is drawn from the system's generator, and nothing else depends on it. Encoding
the state is the expensive part and the same for many nodes, so it is done once, in a `StateCache` that is passed along.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from flwr.app import ArrayRecord, Message
from torch import Tensor

from models.algebra.plans import Plan
from models.algebra.submodel import Submodel, flatten
from models.variants.cluster_states import pack_states, shared_names
from protocol import (
    EVALUATE,
    STATE,
    STATISTICS,
    TRAIN,
    ClusterStates,
    CompressedState,
    FedDyn,
    LossRequest,
    NodeId,
    Objective,
    PartRequest,
    StatisticsRequest,
    TrainRequest,
    encode,
)
from protocol.arrays import bytes_of
from strategies.clustering.base import Clustering, Tensors
from strategies.context import RoundContext
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.node import Node
from strategies.method import Method
from strategies.transport.downlink import Downlink


class StateCache:
    """The present states of the network: cut to parts and encoded once, shared by all messages that carry the same.

    Make a new one when the states have changed.

    Args:
        context: of the round.
        method: says what a plan means in a state.
        clusters: the states, and who is sent which.
        downlink: what nodes are sent to train from, if that is not the state itself.
        only: if given, everybody is sent this cluster's state.
    """

    def __init__(
        self,
        context: RoundContext,
        method: Method,
        clusters: Clustering,
        *,
        downlink: Downlink | None = None,
        only: int | None = None,
    ) -> None:
        self._context, self._method, self._clusters, self._only = context, method, clusters, only
        self.downlink = downlink if downlink is not None and downlink.on else None
        self._states: dict[int, tuple[Tensor, Tensors]] = {}
        self._parts: dict[tuple[Plan, int], Submodel] = {}
        self._encoded: dict[tuple[Plan | None, tuple[int, ...]], tuple[ArrayRecord, int]] = {}

    def clusters_for(self, node: NodeId) -> tuple[int, ...]:
        """The clusters whose states a node is sent."""
        return self._clusters.sent_to(node) if self._only is None else (self._only,)

    def path(self, node: NodeId) -> tuple[int, ...]:
        """The clusters that a node's own came from and itself; () where there is nothing to choose."""
        return self._clusters.path(node) if self._only is None else ()

    def told(self, clusters: tuple[int, ...], *, path: bool = False) -> ClusterStates | None:
        """What a message says of the states that it carries; None where there is one and nothing to choose."""
        if len(clusters) == 1 and not path:
            return None
        return ClusterStates(count=len(clusters), shared=bool(self._clusters.shared), path=path)

    def part(self, plan: Plan, cluster: int) -> Submodel:
        """What a plan means in a state.

        One object per plan and state: nodes with the same object are summed together, and masks take a while.
        """
        if (plan, cluster) not in self._parts:
            self._parts[plan, cluster] = self._method.part(self._context, plan, self._state(cluster)[1])
        return self._parts[plan, cluster]

    def part_to_train(self, plan: Plan, cluster: int) -> Submodel:
        """The same in what nodes are sent to train from."""
        if self.downlink is None:
            return self.part(plan, cluster)
        return self._method.part(self._context, plan, self.downlink.tensors)

    def _state(self, cluster: int) -> tuple[Tensor, Tensors]:
        if cluster not in self._states:
            state = self._clusters.states.get(cluster)
            self._states[cluster] = self._clusters.past(cluster) if state is None else (state.flat, state.tensors)
        return self._states[cluster]

    def arrays(self, plan: Plan, clusters: tuple[int, ...]) -> tuple[ArrayRecord, int]:
        """States, or the part of each; and their encoded bytes."""
        key = plan if self._context.settings.slice_at == "server" else None, clusters
        if key not in self._encoded:
            array = encode(self._vector(*key))
            self._encoded[key] = ArrayRecord({STATE: array}), len(array.data)
        return self._encoded[key]

    def _vector(self, plan: Plan | None, clusters: tuple[int, ...]) -> Tensor:
        states = [self._state(cluster) for cluster in clusters]
        if plan is None:
            return (
                states[0][0] if len(states) == 1 else pack_states([state for _, state in states], self._clusters.shared)
            )
        parts = [self.part(plan.holding, cluster) for cluster in clusters]
        held = [part.gather(state) for part, (_, state) in zip(parts, states, strict=True)]
        return flatten(held[0]) if len(held) == 1 else pack_states(held, shared_names(parts[0], self._clusters.shared))


def new_nonce() -> str:
    """A name for a request that nobody can work out: 128 bits from the system's generator, in hexadecimal digits.

    The run's seed is no secret, so nothing that is drawn from it could tell a reply from one that somebody made up.
    """
    return secrets.token_hex(16)


def train_request(context: RoundContext, assignment: TrainAssignment, states: StateCache) -> tuple[Message, int]:
    """Ask a node to train what it is assigned: the message, and the encoded bytes of its arrays."""
    carried, compressed = None, None
    common = _common(context, assignment.plan, states.told(assignment.clusters), assignment.nonce)
    if states.downlink is not None:
        arrays, base = states.downlink.arrays(assignment.last_counted)
        carried = arrays, bytes_of(arrays)
        compressed = CompressedState(codec=states.downlink.text, base=base)
    request = TrainRequest(
        **common | {"work": assignment.work},
        objective=assignment.objective,
        optimiser=assignment.optimiser,
        codec=assignment.codec,
        codec_base=assignment.codec_base,
        checkpoint=context.saved_round,
        counted=assignment.last_counted,
        compressed=compressed,
        dynamic_regulariser=FedDyn(alpha=assignment.dynamic_alpha) if assignment.dynamic_alpha else None,
        secure=assignment.secure,
    )
    return _message(request, TRAIN, assignment.node, states=states, clusters=assignment.clusters, carried=carried)


def part_request(
    context: RoundContext,
    kind: str,
    node: Node,
    plan: Plan,
    *,
    states: StateCache,
    counted: int = 0,
    on_path: bool = False,
) -> tuple[str, Message]:
    """Ask a node something about a part of the state.

    Args:
        context: of the round.
        kind: of the request, such as `EVALUATE`.
        node: whom to ask.
        plan: which part.
        states: what the message carries.
        counted: round of the node's last reply that counted.
        on_path: whether the states that the node's cluster came from go along.

    Returns:
        The nonce and the message.
    """
    path = states.path(node.id) if on_path else ()
    clusters = path or states.clusters_for(node.id)
    metric = context.settings.metric if kind == EVALUATE else ""
    common = _common(context, plan, states.told(clusters, path=bool(path)))
    request = PartRequest(**common, metric=metric, counted=counted)
    return request.nonce, _message(request, kind, node, states=states, clusters=clusters)[0]


def statistics_request(
    context: RoundContext, node: Node, plans: Sequence[Plan], *, states: StateCache
) -> tuple[str, Message]:
    """Ask a node about static batch norm in parts of the state: the nonce and the message.

    Args:
        context: of the round.
        node: whom to ask.
        plans: which parts; where states are sliced here, one.
        states: what the message carries.
    """
    first, *also = plans
    clusters = states.clusters_for(node.id)
    request = StatisticsRequest(**_common(context, first, states.told(clusters)), also=tuple(also))
    return request.nonce, _message(request, STATISTICS, node, states=states, clusters=clusters)[0]


def loss_request(
    context: RoundContext,
    kind: str,
    node: Node,
    plan: Plan,
    *,
    states: StateCache,
    objective: Objective,
    batch: int = 0,
    counted: int = 0,
) -> tuple[str, Message]:
    """Ask a node about the loss of a part (kind `LOSSES` or `GRADIENTS`): the nonce and the message."""
    clusters = states.clusters_for(node.id)
    common = _common(context, plan, states.told(clusters))
    request = LossRequest(**common, objective=objective.name, batch=batch, counted=counted)
    return request.nonce, _message(request, kind, node, states=states, clusters=clusters)[0]


def _common(context: RoundContext, plan: Plan, clusters: ClusterStates | None, nonce: str = "") -> dict[str, Any]:
    settings = context.settings
    return {
        "round_number": context.round_number,
        "nonce": nonce or new_nonce(),
        "seed": settings.seed,
        "network": context.network,
        "plan": plan,
        "sliced": settings.slice_at == "server",
        "work": settings.work,
        "clusters": clusters,
        "facts": settings.facts,
    }


def _message(
    request: PartRequest,
    kind: str,
    node: Node,
    *,
    states: StateCache,
    clusters: tuple[int, ...],
    carried: tuple[ArrayRecord, int] | None = None,
) -> tuple[Message, int]:
    """The message of a request, and the encoded bytes of what it carries: the states of clusters, if nothing else."""
    arrays, size = states.arrays(request.plan, clusters) if carried is None else carried
    group = str(request.round_number)
    return Message(content=request.to_record(arrays), message_type=kind, dst_node_id=node.address, group_id=group), size
