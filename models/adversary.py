"""Adversarial inputs by projected gradient descent in an L∞ ball (Madry et al., ICLR 2018), with Split-Mix's settings.

    x₀ = x + U(-ε, ε)        x_{i+1} = clip(x_i + α·sign(∇ loss(x_i)))        α = min(1.25·ε, ε + 4/255) / steps

clip keeps within ε of x and within the range that inputs can have. ε is in pixel units, in which that range is [0, 1];
inputs are normalised by channel, so radius, step and range become numbers per channel.

The network is seen as evaluation sees it (no scaler, no dropout, running statistics stay). Only static batch norm keeps
to the batch while training, because it has no statistics then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.evaluation import batch_of
from models.norms.dual_norm import noise_share
from models.norms.layers import StaticBatchNorm

FINEST_STEP = 4 / 255


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Attack:
    """How inputs are attacked.

    Attributes:
        epsilon: radius of the ball in pixel units: the share of the range of a pixel, in (0, 1].
        steps: gradient steps, at least 1.
        low, high: range of an input by channel, after normalisation: [C, 1, 1] each.
        draws: generator of the random starts, on the CPU.
    """

    epsilon: float
    steps: int
    low: Tensor
    high: Tensor
    draws: torch.Generator

    def perturb(self, network: nn.Module, loss: Callable[[Tensor], Tensor], x: Tensor, share: float = 1.0) -> Tensor:
        """Find inputs near x that raise a loss.

        Args:
            network: what the loss depends on; its mode, its norms' share and its gradients are as before in the end.
            loss: inputs → number to raise, by running the network.
            x: (N, C, H, W), normalised; not written to.
            share: of the noise norms while it is attacked (see `models.norms.dual_norm`).

        Returns:
            (N, C, H, W), constant.
        """
        low, high = self.low.to(x.device), self.high.to(x.device)
        radius, step = self.epsilon * (high - low), self._step * (high - low)
        # An input that lies outside of the range of the training data may stay where it is.
        least, most = torch.maximum(x - radius, low).minimum(x), torch.minimum(x + radius, high).maximum(x)
        start = torch.rand(x.shape, generator=self.draws).to(x)
        found = (x + radius * (2 * start - 1)).clamp(least, most)
        with _as_evaluated(network), noise_share(network, share), torch.enable_grad():
            for _ in range(self.steps):
                found.requires_grad_(True)
                (gradient,) = torch.autograd.grad(loss(found), found)
                found = (found.detach() + step * gradient.sign()).clamp(least, most)
        return found

    @property
    def _step(self) -> float:
        """α in pixel units."""
        return min(1.25 * self.epsilon, self.epsilon + FINEST_STEP) / self.steps


def robust_accuracy(
    network: nn.Module, inputs: Tensor, labels: Tensor, attack: Attack, *, share: float = 0.0, batch_size: int = 0
) -> float:
    """Share of the examples that a network gets right although they are attacked; nan without examples.

    The attacker knows everything, the share included. The network stays in evaluation mode. A batch size of 0 is
    `batch_of` the inputs.
    """
    network.eval()
    right, batch_size = 0, batch_size or batch_of(inputs)
    for x, y in zip(torch.split(inputs, batch_size), torch.split(labels, batch_size), strict=True):

        def loss(found: Tensor, y: Tensor = y) -> Tensor:
            return F.cross_entropy(network(found).float(), y, reduction="sum")

        found = attack.perturb(network, loss, x, share)
        with torch.no_grad(), noise_share(network, share):
            right += int((network(found).argmax(1) == y).sum())
    return right / len(labels) if len(labels) else float("nan")


@contextmanager
def _as_evaluated(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules() if not isinstance(module, StaticBatchNorm)}
    for module in modes:
        module.training = False
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
