"""A run small enough for a test."""

from __future__ import annotations

from protocol import Scalar

SMALL: dict[str, Scalar] = {
    "dataset": "digits",
    "model": "mlp",
    "widths": "16, 8",
    "batch-size": 64,
    "local-epochs": 1,
    "device": "cpu",
    "tiers": "a:1, b:1/2, c:1/4, d:1/8, e:1/8",
    "local-test-fraction": 0.0,
}
