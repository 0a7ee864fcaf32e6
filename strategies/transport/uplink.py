"""The server's half of the codec: what reads the replies, and what it keeps of each client for that.

Only a codec that asks for it (EF21) has something kept: one vector of the full network's size for every client that has
taken part, part of every checkpoint. It changes when a round ends well, never for a reply that is rejected or a round
that is abandoned, because the client is told which of its replies counted and forgets the others as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from models.algebra.axes import Layout
from models.algebra.submodel import Submodel
from models.errors import SettingError
from protocol import NodeId
from protocol.codecs import CodecSettings, OfPart, codec_of
from strategies.exchange.node import in_order
from strategies.exchange.stateful import RoundOutcome, Saved, Stateful

MOST_KEPT_BYTES = 2 << 30


class UplinkDecoder(Stateful):
    """What replies are decoded with.

    Args:
        settings: of the codec.
        layout: declaration of the full network.
        nodes: that the run expects.

    Attributes:
        text: the codec's settings for the request.
        codec: reads what nodes send; where it remembers nothing it is told `NOTHING`.
        remembers: whether something is kept of each node, which a request and the reading of a reply then depend on.

    Raises:
        SettingError: what would have to be kept of so many nodes does not fit the memory.
    """

    def __init__(self, settings: CodecSettings, layout: Layout, nodes: int) -> None:
        self.text = settings.to_text()
        self.codec = codec_of(settings)
        self.remembers = self.codec.REMEMBERS
        if self.remembers and 4 * layout.parameters * nodes > MOST_KEPT_BYTES:
            kept = f"{layout.parameters:,} parameters of each of {nodes:,} nodes do not fit in 2 GiB"
            raise SettingError("codec", settings.name, f"one that keeps nothing of a node at the server: {kept}")
        self._shapes = layout.shapes
        self._kept: dict[NodeId, dict[str, Tensor]] = {}

    def base(self, node: NodeId, part: Submodel) -> int:
        """What a request to a node has to say of what is kept of it."""
        return self.codec.base(self.memory(node, part))

    def memory(self, node: NodeId, part: Submodel) -> OfPart:
        """What is kept of a node, in the coordinates of a part."""
        return OfPart(_OfNode(self._kept, node), part, self._shapes)

    def keep(self, node: NodeId, part: Submodel, vectors: Mapping[str, Tensor]) -> None:
        """Keep what the codec said is to be remembered, now that the reply has counted."""
        memory = self.memory(node, part)
        for name, vector in vectors.items():
            memory.write(name, vector)

    def learn(self, outcome: RoundOutcome) -> None:
        """Keep what the codec wants remembered of the nodes whose replies have counted."""
        for one in outcome.counted:
            self.keep(one.assignment.node.id, one.assignment.part, one.remember)

    def checkpoint(self) -> Saved:
        """The vectors, and whose they are."""
        rows = [(node, name) for node in sorted(self._kept, key=in_order) for name in sorted(self._kept[node])]
        tensors = {str(i): self._kept[node][name] for i, (node, name) in enumerate(rows)}
        return tensors, [list(row) for row in rows]

    def restore(self, tensors: Mapping[str, Tensor], values: Any) -> None:
        """Take up a `checkpoint`."""
        self._kept = {}
        for i, (node, name) in enumerate(values):
            self._kept.setdefault(node, {})[name] = tensors[str(i)]


class _OfNode:
    """The vectors of one node."""

    def __init__(self, kept: dict[NodeId, dict[str, Tensor]], node: NodeId) -> None:
        self._kept, self._node = kept, node

    def read(self, name: str) -> Tensor | None:
        return self._kept.get(self._node, {}).get(name)

    def write(self, name: str, vector: Tensor) -> None:
        self._kept.setdefault(self._node, {})[name] = vector
