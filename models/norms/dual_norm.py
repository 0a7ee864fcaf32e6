"""Dual normalisation (Split-Mix, ICLR 2022, §4.3, after Xie et al., CVPR 2020): norms for clean and for noisy inputs.

Every norm exists twice, affine part and statistics. Training passes clean inputs through the clean copies and
adversarial ones through the noise copies. At test time a share λ_t mixes the two in every layer, (1 - λ_t)·clean(x) +
λ_t·noise(x), so that one trained network can be run anywhere between accurate and robust.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


class DualNorm(nn.Module):
    """Two copies of a norm.

    Args:
        clean: for clean inputs.
        noise: for adversarial inputs.

    Attributes:
        share: λ_t in [0, 1]. At 0 the noise copy is not run at all, at 1 the clean one is not.
    """

    def __init__(self, clean: nn.Module, noise: nn.Module) -> None:
        super().__init__()
        self.clean, self.noise = clean, noise
        self.share = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Normalise as the share says."""
        if self.share == 0:
            return self.clean(x)  # type: ignore[no-any-return]
        if self.share == 1:
            return self.noise(x)  # type: ignore[no-any-return]
        mixed: Tensor = (1 - self.share) * self.clean(x) + self.share * self.noise(x)
        return mixed


def dual_norms(network: nn.Module) -> list[DualNorm]:
    """Find the dual norms of a network."""
    return [module for module in network.modules() if isinstance(module, DualNorm)]


def noise_share_of(network: nn.Module) -> float:
    """The share that a network's dual norms have now; 0 where it has none."""
    return next((norm.share for norm in dual_norms(network)), 0.0)


@contextmanager
def noise_share(network: nn.Module, share: float) -> Iterator[None]:
    """Run a network with another share of its noise norms; without effect on one that has no dual norms."""
    norms = dual_norms(network)
    before = [norm.share for norm in norms]
    for norm in norms:
        norm.share = share
    try:
        yield
    finally:
        for norm, own in zip(norms, before, strict=True):
            norm.share = own
