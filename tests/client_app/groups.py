"""Clients in groups: how many were trained at once, and the same without groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from flwr.app import Message

from client_app import fused_training, side_by_side
from flotilla.local import grid as local_grid
from flotilla.local import pool

SMALL: dict[str, Any] = {"batch_size": 16, "num_clients": 8, "tiers": "a:1, b:1/2"}


@contextmanager
def noted(shared: list[bool] | None = None) -> Iterator[list[int]]:
    """How many clients each training was of, and whether all of them began from one memory."""
    sizes, train = list[int](), fused_training.train_fused

    def note(network: Any, *, starts: Any, **named: Any) -> Any:
        sizes.append(len(starts))
        if shared is not None and len(starts) > 1:
            shared.append(starts.stride(0) == 0)
        before = starts.clone()
        found = train(network, starts, **named)
        assert len(starts) == 1 or torch.equal(starts, before)
        return found

    with patch.object(side_by_side, "train_fused", note):
        yield sizes


def singly(messages: Sequence[Message], *_: object) -> list[list[Message]]:
    """Every message by itself."""
    return [[message] for message in messages]


@contextmanager
def alone() -> Iterator[None]:
    """Every client is trained by itself."""
    with patch.object(local_grid, "grouped", singly), patch.object(pool, "grouped", singly):
        yield
