"""SGD with momentum, weight decay, clipping and a proximal term, in place.

The same rule as `torch.optim.SGD` (dampening 0, no Nesterov), which a test holds it against, in one pass over the
parameters, by the operation of `torch.optim.SGD(fused=True)`. Not that class, because `torch.optim` imports
torch._dynamo on first use: 0.8 s in each of the processes that a deployed device starts per message.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from protocol import Optimiser

# No dampening and no Nesterov; and a momentum that begins at zero, so no step is the first.
one_pass = partial(torch._fused_sgd_, dampening=0.0, nesterov=False, maximize=False, is_first_step=False)
CLIP_EPSILON = 1e-6  # what `torch.nn.utils.clip_grad_norm_` adds to a norm


class SGD:
    """One round's optimiser: momentum starts at zero.

    Args:
        parameters: what to train, contiguous; gradients must be so too, as autograd makes them.
        settings: learning rate, momentum, weight decay, clipping, proximal term.

    Raises:
        ValueError: a parameter is not contiguous; the operation reads and writes memory as it lies.
    """

    def __init__(self, parameters: Iterable[Tensor], settings: Optimiser) -> None:
        self._parameters: list[Tensor] = [parameter for parameter in parameters if parameter.requires_grad]
        if not all(parameter.is_contiguous() for parameter in self._parameters):
            raise ValueError("parameters must be contiguous")
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
        gradients = [parameter.grad for parameter in moved if parameter.grad is not None]
        above = self._above(gradients) if rule.clip_norm else None
        if rule.proximal:
            if above is not None:
                torch._foreach_div_(gradients, above)
                above = None
            away = torch._foreach_sub(moved, [self._start[parameter] for parameter in moved])
            torch._foreach_add_(gradients, away, alpha=rule.proximal)
        one_pass(
            moved,
            gradients,
            [self._velocity_of(parameter) for parameter in moved] if rule.momentum else [],
            weight_decay=rule.weight_decay,
            momentum=rule.momentum,
            lr=rule.learning_rate,
            grad_scale=above,
        )

    def _above(self, gradients: list[Tensor]) -> Tensor:
        """By how much the norm of all of them is above the one that they are clipped to; 1 where it is not."""
        norm = nn.utils.get_total_norm(gradients)
        return ((norm + CLIP_EPSILON) / self._settings.clip_norm).clamp_(min=1).float()

    def _velocity_of(self, parameter: Tensor) -> Tensor:
        if parameter not in self._velocity:
            self._velocity[parameter] = torch.zeros_like(parameter)
        return self._velocity[parameter]
