"""The client half of FedDyn (Acar et al., ICLR 2021, Algorithm 1) on the part that the device holds.

    minimise  loss(θ) - ⟨g, θ⟩ + α/2·‖θ - θ₀‖²        after training  g ← g - α·(θ - θ₀)

The quadratic term is added after clipping, like FedProx's (`protocol.Optimiser.proximal`), and the linear one before,
as in the released code (alpemreacar/FedDyn, commit 48a19fa), where the former is weight decay and gradients are clipped
to a norm of 10, not of `clip-norm`. On a device that trains by a function of its own (`client_app.served_device`) both
are added after whatever that function clips.

g is the device's own and stays on it, in the coordinates of the full network, so that a device whose part changes keeps
what it knows of the rest; it is kept for what the device ever held, not for what it never did
(`models.algebra.box_vector`). A device
that lost it begins again at g = 0: its next rounds are FedProx-like until g has grown back, and its reply says so.
"""

from __future__ import annotations

import torch
from torch import Tensor

from client_app.client_state import ClientState
from client_app.model_cache import LocalModel
from models.algebra.box_vector import BoxVector
from models.networks.build import layout
from models.networks.spec import NetworkSpec

NAME = "dynamic"


class FedDynRegulariser:
    """Adds FedDyn's gradient to that of the loss.

    Args:
        model: with the part loaded.
        spec: the full network.
        alpha: strength, above 0.
        memory: what the device keeps.
    """

    def __init__(self, model: LocalModel, spec: NetworkSpec, alpha: float, memory: ClientState) -> None:
        self._part, self._alpha, self._memory, part = model.part, alpha, memory, model.part
        found = memory.read(NAME)
        known = None if found is None else BoxVector.from_vector(found, layout(spec))
        self.began_anew = known is None
        self._held = (known or BoxVector.empty(layout(spec))).widened_by(part)
        device = model.flat.device
        self._own = self._held.gather(part).to(device)
        linear, start = part.split(self._own), part.split(model.start.to(device))
        parameters = dict(model.module.named_parameters())
        self._terms: list[tuple[Tensor, Tensor, Tensor]] = [
            (parameter, linear[name], start[name]) for name, parameter in parameters.items()
        ]

    @torch.no_grad()
    def add_linear(self) -> None:
        """Add -g to the gradient of every parameter that has one."""
        for parameter, linear, _ in self._terms:
            if parameter.grad is not None:
                parameter.grad.sub_(linear)

    @torch.no_grad()
    def add_quadratic(self) -> None:
        """Add α·(θ - θ₀) to the gradient of every parameter that has one, where no optimiser does."""
        for parameter, _, start in self._terms:
            if parameter.grad is not None:
                parameter.grad.add_(parameter - start, alpha=self._alpha)

    @torch.no_grad()
    def keep(self) -> None:
        """Update g by what was trained, and remember it. To be called before the difference is asked for."""
        for parameter, linear, start in self._terms:
            linear.sub_(parameter - start, alpha=self._alpha)
        self._held.scatter(self._part, self._own.cpu())
        self._memory.write(NAME, self._held.to_vector())
