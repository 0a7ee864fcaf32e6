"""Replies that all take the same time, and what a run says of its selection."""

from __future__ import annotations

from typing import Any

from flwr.app import Message, MetricRecord

from protocol import TRAIN
from tests.support import Outcome


def on_time(request: Message, reply: Message) -> list[Message]:
    """Every device takes the same seconds in every run: wall time is the one thing that no run can repeat."""
    if request.metadata.message_type == TRAIN and not reply.has_error():
        metrics = reply.content["metrics"]
        assert isinstance(metrics, MetricRecord)
        metrics["seconds"] = 0.1 * (request.metadata.dst_node_id % 13 + 1)
    return [reply]


def told(out: Outcome) -> list[dict[str, Any]]:
    keys = ("selected", "selected_tiers", "selected_ever", "train_loss", "bytes_down")
    return [{key: row[key] for key in keys} for row in out.rows]
