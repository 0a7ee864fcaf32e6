"""Makes the messages of a round: typed requests with the state, or a slice of it, that many of them share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import ArrayRecord, Message
from torch import Tensor

from models.network import NetworkSpec, submodel
from models.plans import Plan
from models.submodel import flatten
from protocol import STATE, TRAIN, NodeId, Objective, PartRequest, TrainRequest, bytes_of, encode
from strategies.fleet import Node
from strategies.rounds import Sent
from strategies.settings import Settings
from strategies.tiers import Tier


class Outbox:
    """The messages about one state of the network; make a new one when the state has changed.

    Args:
        network: the global network.
        settings: of the strategy.
        state: the global state by name.
        flat: the same as one vector.
        round_number: 1-based.
    """

    def __init__(
        self, network: NetworkSpec, settings: Settings, state: Mapping[str, Tensor], flat: Tensor, round_number: int
    ) -> None:
        self._network, self._settings = network, settings
        self._state, self._flat, self._round = state, flat, round_number
        self._encoded: dict[Plan | None, ArrayRecord] = {}

    def train(self, node: Node, tier: Tier, plan: Plan, objective: Objective) -> Sent:
        """A request to train a part, and what the server remembers of it."""
        request = TrainRequest(
            **self._common(node.id, plan),
            objective=objective,
            optimiser=self._settings.schedule.optimiser(self._round),
            codec=self._settings.codec,
        )
        arrays = self._arrays(plan)
        message = self._message(request, arrays, TRAIN, node)
        return Sent(node, tier.name, plan, submodel(self._network, plan), request.nonce, message, bytes_of(arrays))

    def ask(self, kind: str, node: Node, plan: Plan) -> tuple[str, Message]:
        """A request of another kind about a part: its nonce and the message."""
        request = PartRequest(**self._common(node.id, plan))
        return request.nonce, self._message(request, self._arrays(plan), kind, node)

    def _common(self, node: NodeId, plan: Plan) -> dict[str, Any]:
        seed = self._settings.seed
        return {
            "round_number": self._round,
            "nonce": f"{seed}-{self._round}-{node}",
            "seed": seed,
            "network": self._network,
            "plan": plan,
            "sliced": self._settings.slice_at == "server",
            "work": self._settings.work,
        }

    def _arrays(self, plan: Plan) -> ArrayRecord:
        """The state, or the part of it; encoded once and shared by all messages with the same plan."""
        key = plan if self._settings.slice_at == "server" else None
        if key not in self._encoded:
            part = None if key is None else submodel(self._network, key)
            flat = self._flat if part is None else flatten(part.gather(self._state))
            self._encoded[key] = ArrayRecord({STATE: encode(flat)})
        return self._encoded[key]

    def _message(self, request: PartRequest, arrays: ArrayRecord, kind: str, node: Node) -> Message:
        content = request.to_record(arrays)
        return Message(content=content, message_type=kind, dst_node_id=node.address, group_id=str(self._round))
