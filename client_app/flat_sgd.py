"""The rule of `client_app.sgd.SGD` on flat vectors: all parameters of some clients, one client a row."""

from __future__ import annotations

import torch
from torch import Tensor

from protocol import Optimiser

_SMALL = 1e-6  # as in `torch.nn.utils.clip_grad_norm_`


class FlatSGD:
    """One round's optimiser: momentum starts at zero.

    Args:
        weights: parameters of every client [K, P], updated in place.
        gradients: theirs [K, P], only read.
        settings: learning rate, momentum, weight decay, clipping (of every client by itself), proximal term.

    Attributes:
        untouched: what a weight without any gradient has been multiplied by.
    """

    def __init__(self, weights: Tensor, gradients: Tensor, settings: Optimiser) -> None:
        self._weights, self._gradients, self._settings = weights, gradients, settings
        self._step = torch.zeros_like(weights)  # with momentum: the velocity
        self._start = weights.clone() if settings.proximal else weights
        self.untouched, self._untouched_step = 1.0, 0.0

    def step(self) -> None:
        """Clip, then update."""
        rule, step = self._settings, self._step
        if rule.clip_norm:
            norms = torch.linalg.vector_norm(self._gradients, dim=1, keepdim=True)
            share = norms.add_(_SMALL).reciprocal_().mul_(rule.clip_norm).clamp_(max=1.0)
            step.mul_(rule.momentum).addcmul_(self._gradients, share)
        elif rule.momentum or rule.weight_decay or rule.proximal:
            step.mul_(rule.momentum).add_(self._gradients)
        else:
            step = self._gradients
        if rule.weight_decay:
            step.add_(self._weights, alpha=rule.weight_decay)
        if rule.proximal:
            step.add_(self._weights - self._start, alpha=rule.proximal)
        self._weights.add_(step, alpha=-rule.learning_rate)
        pull = rule.weight_decay * self.untouched + rule.proximal * (self.untouched - 1)
        self._untouched_step = rule.momentum * self._untouched_step + pull
        self.untouched -= rule.learning_rate * self._untouched_step
