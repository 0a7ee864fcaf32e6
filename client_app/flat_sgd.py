"""The rule of `client_app.sgd.SGD` on a flat vector: all parameters of a client.

In one pass over them, by the operation that `torch.optim.SGD(fused=True)` uses; see `client_app.sgd` for why not by
that class.
"""

from __future__ import annotations

import torch
from torch import Tensor

from client_app.sgd import CLIP_EPSILON, one_pass
from protocol import Optimiser


class FlatSGD:
    """One round's optimiser of a client: momentum starts at zero.

    Args:
        weights: its parameters [P], updated in place.
        settings: learning rate, momentum, weight decay, clipping, proximal term.

    Attributes:
        untouched: what a weight without any gradient has been multiplied by.
    """

    def __init__(self, weights: Tensor, settings: Optimiser) -> None:
        self._weights, self._rule = [weights], settings
        self._velocity = [torch.zeros_like(weights)] if settings.momentum else []
        self._start = weights.clone() if settings.proximal else weights
        self.untouched, self._untouched_step = 1.0, 0.0

    def step(self, gradient: Tensor) -> None:
        """Clip, then update.

        Args:
            gradient: of the weights [P], written over.
        """
        rule, above = self._rule, 1.0
        if rule.clip_norm:
            above = max(1.0, (float(torch.linalg.vector_norm(gradient)) + CLIP_EPSILON) / rule.clip_norm)
        if rule.proximal:
            gradient.div_(above).add_(self._weights[0] - self._start, alpha=rule.proximal)
            above = 1.0
        one_pass(
            self._weights,
            [gradient],
            self._velocity,
            weight_decay=rule.weight_decay,
            momentum=rule.momentum,
            lr=rule.learning_rate,
            grad_scale=torch.tensor(above) if above > 1 else None,
        )
        pull = rule.weight_decay * self.untouched + rule.proximal * (self.untouched - 1)
        self._untouched_step = rule.momentum * self._untouched_step + pull
        self.untouched -= rule.learning_rate * self._untouched_step
