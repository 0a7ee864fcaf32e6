"""The logits of everything in a network that predicts: exits of several depths, or nets side by side."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


def predictions(network: nn.Module, x: Tensor) -> list[Tensor]:
    """Logits of everything in a network that predicts: its exits, or the nets of a mixture; else its only ones."""
    several: Callable[[Tensor], list[Tensor]] | None = getattr(network, "predictions", None)
    return [network(x)] if several is None else several(x)
