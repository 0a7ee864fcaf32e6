"""Cross entropy through a mask by magnitude (FIARSE, NeurIPS 2024): threshold-controlled biased gradient descent.

With the threshold θ that the received state has, every forward pass computes with w·[|w| ≥ θ], so a weight that falls
below θ while training stops counting. Its backward pass takes the step for 2θ/(|w| + θ)² steep, on what is kept:

    ∂(w·[|w| ≥ θ])/∂w = [|w| ≥ θ] · (1 + 2|w|θ / (|w| + θ)²)

which is 3/2 at the threshold and falls to 1 for large weights. A weight below θ gets no gradient from the loss; it is
only moved by what the optimiser does of itself (weight decay, momentum it still has).

That is the paper's gradient (`gradient` = "paper"). In the released code (HarliWu/FIARSE, commit 281519c, seen on torch
2.13) the step comes back as booleans, through which autograd does not go, so the term never acts and training is
plainly masked: ∂/∂w = [|w| ≥ θ] ("code"). It also masks where everything is kept, at the least weight, so what falls
below that while training stops.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from client_app.objectives.base import LocalObjective, ObjectiveContext
from client_app.objectives.cross_entropy import cross_entropy
from models.losses import loss_of
from models.networks.build import layout
from models.variants.importance import competing_tensors, threshold
from protocol import WireError

GRADIENTS = ("paper", "code")


class _Steeper(torch.autograd.Function):
    """(weights, θ) → the weights, with the factor above in the gradient."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, least: float) -> Tensor:
        """Nothing changes."""
        ctx.save_for_backward(weight)
        ctx.least = least
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Gradient by the weights."""
        (weight,), least = ctx.saved_tensors, ctx.least
        size = weight.abs()
        factor = (size + least).square_().reciprocal_().mul_(size).mul_(2 * least).add_(1)  # in place: it counts
        return factor.mul_(gradients[0]), None


def kept(weight: Tensor, least: float, gradient: str = "paper") -> Tensor:
    """Weights whose magnitude reaches a threshold above 0, else 0; see the module for the gradients."""
    below = torch.nextafter(torch.tensor(least), torch.zeros(()))  # hardshrink leaves out what only equals its bound
    if gradient == "paper":
        weight = _Steeper.apply(weight, least)  # type: ignore[no-untyped-call]
    return F.hardshrink(weight, float(below))  # one pass each way, where a mask would take several


def importance_masked(setting: ObjectiveContext) -> LocalObjective:
    """Mean cross entropy of the masked network; where everything is kept, or the threshold is 0, the plain one.

    Settings: `gradient`, one of `GRADIENTS`.

    Raises:
        WireError: another gradient.
    """
    gradient = str(setting.settings.get("gradient", "paper"))
    if gradient not in GRADIENTS:
        raise WireError(f"gradient {gradient!r}: this client knows {', '.join(GRADIENTS)}")
    module, declared, keep = setting.module, layout(setting.spec), setting.plan.keep
    masks = keep < 1 or gradient == "code"
    least = threshold(module.state_dict(), declared, keep) if masks else 0.0
    if not least:
        return cross_entropy(setting)
    parameters = dict(module.named_parameters())
    competing = {name: parameters[name] for name in competing_tensors(declared)}

    def loss(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        used = {name: kept(weight, least, gradient) for name, weight in competing.items()}
        logits = functional_call(module, used, (inputs,))
        return loss_of(setting.spec.task, logits, labels), logits

    return loss
