"""Makes the messages of a round: typed requests with the state, or a slice of it, that many of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flwr.app import ArrayRecord, Message
from torch import Tensor

from models.algebra.plans import Plan
from models.algebra.submodel import Submodel, flatten
from models.networks.spec import NetworkSpec
from models.variants.cluster_states import pack_states, shared_names
from protocol import (
    STATE,
    TRAIN,
    ClusterStates,
    CompressedState,
    FedDyn,
    LossRequest,
    NodeId,
    Objective,
    PartRequest,
    TrainRequest,
    bytes_of,
    encode,
)
from strategies.clustering.base import Clustering
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.node import Node
from strategies.settings import Settings
from strategies.tiers.tier import Tier
from strategies.transport.downlink import Downlink
from strategies.transport.uplink import UplinkDecoder


class RequestFactory:
    """The messages about the present states of the network; make a new one when they have changed.

    Args:
        network: the global network.
        settings: of the strategy.
        clusters: the states, and who is offered which.
        round_number: 1-based.
        part: what a plan means in a state.
        decoding: the server's half of the codec.
        downlink: what clients are sent to train from.
        checkpoint: newest round that can be resumed from.
        cluster: if given, everybody is sent this one's state.
    """

    def __init__(
        self,
        network: NetworkSpec,
        settings: Settings,
        clusters: Clustering,
        round_number: int,
        part: Callable[[Plan, Mapping[str, Tensor]], Submodel],
        decoding: UplinkDecoder,
        downlink: Downlink,
        checkpoint: int = 0,
        cluster: int | None = None,
    ) -> None:
        self._part, self._decoding, self._downlink, self._checkpoint = part, decoding, downlink, checkpoint
        self._network, self._settings = network, settings
        self._clusters, self._cluster, self._round = clusters, cluster, round_number
        self._parts: dict[tuple[Plan, int], Submodel] = {}
        self._encoded: dict[tuple[Plan | None, tuple[int, ...]], ArrayRecord] = {}

    def train(
        self, node: Node, tier: Tier, plan: Plan, objective: Objective, weight: float = 1.0, counted: int = 0
    ) -> TrainAssignment:
        """A request to train a part, and what the server remembers of it.

        Args:
            node: whom to ask.
            tier: its tier.
            plan: which part.
            objective: what to optimise.
            weight: multiplies the reply's weights.
            counted: round of the node's last reply that counted.
        """
        down = self._downlink
        part = self._part(plan, down.tensors) if down.on else self.part(plan, node)
        arrays, base = down.arrays(counted) if down.on else (self._arrays(node, plan), 0)
        alpha = self._settings.dynamic_alpha if self._clusters.counts(node.id) else 0.0
        request = TrainRequest(
            **self._common(node.id, plan) | {"work": self._settings.work_of(tier)},
            objective=objective,
            optimiser=self._settings.schedule.optimiser(self._round),
            codec=self._decoding.text,
            codec_base=self._decoding.base(node.id, part),
            checkpoint=self._checkpoint,
            counted=counted,
            compressed=CompressedState(codec=down.text, base=base) if down.on else None,
            feddyn=FedDyn(alpha=alpha) if alpha else None,
        )
        message = self._message(request, arrays, TRAIN, node)
        return TrainAssignment(
            node=node,
            tier=tier.name,
            plan=plan,
            part=part,
            nonce=request.nonce,
            message=message,
            bytes_down=bytes_of(arrays),
            weight=weight,
        )

    def ask(self, kind: str, node: Node, plan: Plan, *, on_path: bool = False) -> tuple[str, Message]:
        """A request of another kind about a part: its nonce and the message.

        Args:
            kind: of the request.
            node: whom to ask.
            plan: which part.
            on_path: whether the states that the node's cluster came from go along.
        """
        path = self._clusters.path(node.id) if on_path and self._cluster is None else ()
        common = self._common(node.id, plan)
        if path:
            common["clusters"] = ClusterStates(count=len(path), shared=bool(self._clusters.shared), path=True)
        request = PartRequest(**common)
        return request.nonce, self._message(request, self._arrays(node, plan, path), kind, node)

    def ask_loss(self, kind: str, node: Node, plan: Plan, objective: Objective, batch: int = 0) -> tuple[str, Message]:
        """A request about the loss of a part (of a kind such as `LOSSES`): its nonce and the message."""
        request = LossRequest(**self._common(node.id, plan), objective=objective.name, batch=batch)
        return request.nonce, self._message(request, self._arrays(node, plan), kind, node)

    def part(self, plan: Plan, node: Node) -> Submodel:
        """What a plan means in the state that a node is sent, the first one if there are several."""
        return self._cut(plan, self._offered(node.id)[0])

    def _cut(self, plan: Plan, cluster: int) -> Submodel:
        """One object per plan and state: nodes with the same object are summed together, and masks take a while."""
        if (plan, cluster) not in self._parts:
            self._parts[plan, cluster] = self._part(plan, self._clusters.tensors(cluster)[1])
        return self._parts[plan, cluster]

    def _offered(self, node: NodeId) -> tuple[int, ...]:
        return self._clusters.offered(node) if self._cluster is None else (self._cluster,)

    def _common(self, node: NodeId, plan: Plan) -> dict[str, Any]:
        seed, offered = self._settings.seed, len(self._offered(node))
        return {
            "round_number": self._round,
            "nonce": f"{seed}-{self._round}-{node}",
            "seed": seed,
            "network": self._network,
            "plan": plan,
            "sliced": self._settings.slice_at == "server",
            "work": self._settings.work,
            "clusters": ClusterStates(count=offered, shared=bool(self._clusters.shared)) if offered > 1 else None,
        }

    def _arrays(self, node: Node, plan: Plan, path: tuple[int, ...] = ()) -> ArrayRecord:
        """The state, or the part of it; encoded once and shared by all messages with the same plan and clusters."""
        key = plan if self._settings.slice_at == "server" else None, path or self._offered(node.id)
        if key not in self._encoded:
            self._encoded[key] = ArrayRecord({STATE: encode(self._vector(*key))})
        return self._encoded[key]

    def _vector(self, plan: Plan | None, offered: tuple[int, ...]) -> Tensor:
        """The states of clusters, or the same part of each."""
        states, shared = [self._clusters.tensors(cluster) for cluster in offered], self._clusters.shared
        if plan is None:
            return states[0][0] if len(states) == 1 else pack_states([state for _, state in states], shared)
        parts = [self._cut(plan, cluster) for cluster in offered]
        held = [part.gather(state) for part, (_, state) in zip(parts, states, strict=True)]
        return flatten(held[0]) if len(held) == 1 else pack_states(held, shared_names(parts[0], shared))

    def _message(self, request: PartRequest, arrays: ArrayRecord, kind: str, node: Node) -> Message:
        content = request.to_record(arrays)
        return Message(content=content, message_type=kind, dst_node_id=node.address, group_id=str(self._round))
