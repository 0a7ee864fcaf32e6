"""A tier as an ExecuTorch program that trains: loss and gradients of one batch, computed on the device.

The method `forward` takes inputs and labels of a batch of one fixed size and gives the mean loss and the logits; the
runtime's training module hands out gradients and parameters by name, with its SGD. ExecuTorch calls all of it
experimental. What its backward gives is held against PyTorch's own before a file is written, because where it is wrong
nothing says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor, nn

from flotilla.serving.formats.quiet import quiet
from flotilla.serving.formats.runtime import KEY, CannotExport, untranslated
from flotilla.serving.model import TierModel
from flotilla.serving.tier_file import described
from models.losses import loss_of
from models.predictions import predictions

LARGEST = 1e-3  # difference of gradients, over the largest of the tensor
_NEGLIGIBLE = 1e-3  # of the largest gradient of all: a tensor below it is noise in both, as a bias before a norm
STEPS = 3  # that gradients are compared over
_RATE = 0.05
# Operations whose backward gives wrong numbers in ExecuTorch 1.5.1, in silence, and why.
WRONG = {
    "max_pool2d_with_indices_backward": "behind max-pooling ExecuTorch's backward is wrong (it adds to memory that it "
    "does not clear: pytorch/executorch issue 21686); model = cnn-strided has strides instead",
}


class Trained(nn.Module):
    """Inputs and labels of a batch → its mean loss over everything that predicts, and the deepest logits.

    Args:
        model: a tier's network; a copy of it is trained.
    """

    def __init__(self, model: TierModel) -> None:
        super().__init__()
        self.task = model.card.network.task
        self.network = deepcopy(model.network).train()

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Loss () and logits (N, classes)."""
        found = predictions(self.network, x)
        losses = torch.stack([loss_of(self.task, outputs, y) for outputs in found])
        return losses.mean(), found[-1].detach()


def training_bytes(model: TierModel, x: Tensor, y: Tensor) -> bytes:
    """The file's content, for batches of the size of this one.

    Raises:
        CannotExport: ExecuTorch cannot translate the backward pass, or would compute something else.
    """
    try:
        with quiet():
            from executorch.exir import to_edge
            from torch.export.experimental import _export_forward_backward
            from torch.nn.attention import SDPBackend, sdpa_kernel

            with sdpa_kernel(SDPBackend.MATH):  # the others have no backward there
                program = torch.export.export(Trained(model), (x, y))
                joint = _export_forward_backward(program)
            names = {str(node.target) for node in joint.graph.nodes if node.op == "call_function"}
            for name, reason in WRONG.items():
                if any(name in one for one in names):
                    raise CannotExport(f"tier {model.card.tier!r}: {reason}")
            told = {KEY: json.dumps(described(model.card) | {"batch": len(x)}, ensure_ascii=False)}
            return bytes(to_edge(joint, constant_methods=told).to_executorch().buffer)
    except CannotExport:
        raise
    except Exception as error:  # whatever of torch.export or the lowering gives up
        raise untranslated(model, "ExecuTorch's trainer", error) from None


class TrainingProgram:
    """Loss and gradients by ExecuTorch's own runtime.

    Args:
        content: of a .pte file that trains.
        rate: of its SGD.
    """

    def __init__(self, content: bytes, rate: float = _RATE) -> None:
        with quiet():
            from executorch.extension.training import (
                _load_for_executorch_for_training_from_buffer,
                get_sgd_optimizer,
            )

            self._module = _load_for_executorch_for_training_from_buffer(content)
            self._make, self._rate = get_sgd_optimizer, rate
            self._optimiser: Any = None

    def gradients(self, x: Tensor, y: Tensor) -> tuple[float, Mapping[str, Tensor]]:
        """Loss of a batch, and the gradient of every parameter by its name."""
        loss = self._module.forward_backward("forward", (x, y))[0]
        return float(loss), self._module.named_gradients()

    def step(self) -> None:
        """Take a step of SGD along the last gradients."""
        if self._optimiser is None:
            self._optimiser = self._make(self._module.named_parameters(), self._rate)
        self._optimiser.step(self._module.named_gradients())


def largest_difference(model: TierModel, content: bytes, x: Tensor, y: Tensor) -> float:
    """How far gradients are from PyTorch's, over a few steps of SGD: the largest over the largest of its tensor.

    Args:
        model: the network that the file was made of.
        content: of the file.
        x, y: several batches of its size, one after the other.
    """
    program, eager = TrainingProgram(content), Trained(model)
    size, worst = len(x) // STEPS, 0.0
    for xs, ys in zip(torch.split(x, size)[:STEPS], torch.split(y, size)[:STEPS], strict=True):
        eager.zero_grad()
        loss, _ = eager(xs, ys)
        loss.backward()
        told, found = program.gradients(xs, ys)
        wanted = {name: one.grad for name, one in eager.named_parameters() if one.grad is not None}
        if wanted.keys() != found.keys():
            return inf
        exact = float(loss.detach())
        apart = [abs(told - exact) / max(1.0, abs(exact))]
        scale = _NEGLIGIBLE * max(float(one.abs().max()) for one in wanted.values())
        apart += [
            float((one - found[name]).abs().max()) / max(float(one.abs().max()), scale) for name, one in wanted.items()
        ]
        if not all(map(isfinite, apart)):
            return inf
        worst = max(worst, *apart)
        program.step()
        with torch.no_grad():
            for parameter in eager.parameters():
                if parameter.grad is not None:
                    parameter.sub_(_RATE * parameter.grad)
    return worst
