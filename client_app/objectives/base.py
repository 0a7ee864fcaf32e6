"""What an objective is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from client_app.client_state import ClientState
from models.adversary import Attack
from models.algebra.plans import Plan
from models.networks.spec import NetworkSpec
from protocol import Scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveContext:
    """Everything that an objective may depend on.

    Attributes:
        module: the local network, in training mode.
        spec: the full network.
        plan: which part the local network is.
        labels: labels that the client has, ascending.
        settings: the objective's own settings, from the request.
        draws: generator for whatever the objective draws.
        memory: what the device keeps from round to round.
        adversarial: weight λ of the loss on adversarial inputs, 0 to 1.
        attack: how these are made; None where there are none.
    """

    module: nn.Module
    spec: NetworkSpec
    plan: Plan
    labels: tuple[int, ...]
    settings: Mapping[str, Scalar]
    draws: np.random.Generator
    memory: ClientState
    adversarial: float = 0.0
    attack: Attack | None = None


# (inputs (N, C, H, W), labels (N,)) → (scalar loss to differentiate, logits (N, classes) to report)
LocalObjective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
ObjectiveFactory = Callable[[ObjectiveContext], LocalObjective]


@runtime_checkable
class Settles(Protocol):
    """An objective that has something to do after the last step."""

    def settle(self) -> Mapping[str, float]:
        """Change the network, and say what the reply has to say of it."""
        ...
