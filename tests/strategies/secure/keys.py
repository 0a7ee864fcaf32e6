"""The small run of these tests, with masks, without, and with masks that hide nothing."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from tests.support import address_of

# Two tiers of three nodes; a sum may be of two.
PLAIN: dict[str, Any] = {
    "num_clients": 6,
    "tiers": "a:1, b:1/2",
    "heterofl_label_rows": False,
    "min_cover": 2,
    "secure_threshold": 2,
}
ON: dict[str, Any] = PLAIN | {"secure_aggregation": True}
CLIP = 8.0


def zeros(key: bytes, length: int) -> NDArray[np.uint32]:
    """Masks that hide nothing."""
    del key
    return np.zeros(length, dtype=np.uint32)


def unmasked() -> Any:
    return patch.multiple("client_app.secure.masked", mask=zeros), patch("strategies.secure.group.mask", zeros)


def of_type(kind: str, request: Message, node: int, rounds: tuple[int, ...] = (1, 2)) -> bool:
    return (
        request.metadata.message_type == kind
        and request.metadata.dst_node_id == address_of(node)
        and int(request.metadata.group_id) in rounds
    )
