"""What a step of training holds at most, counted tensor by tensor, beside what the cost model says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.algebra.plans import Plan
from models.networks.build import build_part, submodel
from models.networks.complete import examples
from models.networks.spec import NetworkSpec
from models.predictions import predictions

_VECTORS = 2  # as long as the part, beside the step's own: what was received, and the difference


class Held(TorchDispatchMode):
    """The most bytes that tensors hold together inside, those of a network and of its optimiser from the beginning on.

    Args:
        tensors: that are there already.
    """

    def __init__(self, tensors: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak: int = 0
        self._note(tensors)

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Do one operation, and look at what is held after it."""
        del types
        out = operation(*args, **(kwargs or {}))
        self._note([one for one in tree_leaves(out) if isinstance(one, Tensor)])
        return out

    def _note(self, tensors: list[Tensor]) -> None:
        self._live = {key: found for key, found in self._live.items() if not found[0].expired()}  # type: ignore[no-untyped-call]
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())  # type: ignore[no-untyped-call]
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))


def step_bytes(network: nn.Module, inputs: Tensor, classes: int) -> int:
    """The most that the second step of SGD with momentum holds: weights, momenta, gradients, activations."""
    trained = [one for one in network.parameters() if one.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=0.01, momentum=0.9)
    labels = torch.arange(len(inputs)) % classes
    network.train()

    def step() -> None:
        optimiser.zero_grad()
        losses = [F.cross_entropy(found, labels) for found in predictions(network, inputs)]
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    step()
    optimiser.zero_grad()
    momenta = [state["momentum_buffer"] for state in optimiser.state.values()]
    with Held([inputs, *network.parameters(), *network.buffers(), *momenta]) as held:
        step()
    return int(held.peak)


def measured_bytes(spec: NetworkSpec, plan: Plan, batch: int) -> int:
    """The most that a device holds to train a part, beside its process."""
    network = build_part(spec, plan)
    return step_bytes(network, examples(spec, batch), spec.classes) + 4 * _VECTORS * submodel(spec, plan).numel
