"""SGD with momentum, weight decay, clipping and a proximal term, in place.

The same rule as `torch.optim.SGD` (dampening 0, no Nesterov), which a test holds it against. Not that class, because
`torch.optim` imports torch._dynamo on first use: 0.8 s in each of the processes that a deployed device starts per
message.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from protocol import Optimiser


class SGD:
    """One round's optimiser: momentum starts at zero.

    Args:
        parameters: what to train.
        settings: learning rate, momentum, weight decay, clipping, proximal term.
    """

    def __init__(self, parameters: Iterable[Tensor], settings: Optimiser) -> None:
        self._parameters: list[Tensor] = [parameter for parameter in parameters if parameter.requires_grad]
        self._settings = settings
        self._velocity: dict[Tensor, Tensor] = {}
        self._start = {p: p.detach().clone() for p in self._parameters} if settings.proximal else {}

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Clip, then update; parameters without a gradient (layers that were not used) stay as they are."""
        rule = self._settings
        moved = [parameter for parameter in self._parameters if parameter.grad is not None]
        if not moved:
            return
        if rule.clip_norm:
            nn.utils.clip_grad_norm_(moved, rule.clip_norm)
        steps = [parameter.grad for parameter in moved if parameter.grad is not None]
        if rule.weight_decay:
            torch._foreach_add_(steps, moved, alpha=rule.weight_decay)
        if rule.proximal:
            away = torch._foreach_sub(moved, [self._start[parameter] for parameter in moved])
            torch._foreach_add_(steps, away, alpha=rule.proximal)
        if rule.momentum:
            steps = self._accumulated(moved, steps)
        torch._foreach_add_(moved, steps, alpha=-rule.learning_rate)

    def _accumulated(self, moved: list[Tensor], steps: list[Tensor]) -> list[Tensor]:
        for parameter in moved:
            if parameter not in self._velocity:
                self._velocity[parameter] = torch.zeros_like(parameter)
        velocity = [self._velocity[parameter] for parameter in moved]
        torch._foreach_mul_(velocity, self._settings.momentum)
        torch._foreach_add_(velocity, steps)
        return velocity
