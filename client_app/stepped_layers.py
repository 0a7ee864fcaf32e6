"""Wide linear layers that take their step of plain SGD within the backward pass.

Their step is W ← W − η·dyᵀx. The gradient of a million weights is written to memory and read again, and the weights are
read and written: with a batch of ten that takes as long as both products. Added to the weights as it is computed, it
costs one read and one write. Its other two products, of few examples with many weights, are oneDNN's on x86, where that
was measured: 0.49 ms for x·Wᵀ and 0.39 for dy·W of 128 x 12,544 weights and a batch of 10, which PyTorch 2.13 takes to
MKL, at 0.53 and 0.61 (one core of an AMD EPYC). W·xᵀ in place of x·Wᵀ is no way out: MKL takes half of the time for it
on an Intel Xeon, and twice the time here.

Sums are those of autograd and SGD but for rounding. A weight that is used more than once in a step has a gradient as
ever, which the optimiser takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from platform import machine
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from protocol.training_way import MOST_LINEAR

_BY_ONEDNN = machine() in ("x86_64", "AMD64") and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


class SteppedLayers:
    """The wide linear layers of a network.

    Args:
        module: the network.
        learning_rate: η.
    """

    def __init__(self, module: nn.Module, learning_rate: float) -> None:
        owners = Counter(id(weight) for _, weight in module.named_parameters(remove_duplicate=False))
        self.layers = [
            _Stepped(one, learning_rate)
            for one in module.modules()
            if isinstance(one, nn.Linear) and _is_free(one) and owners[id(one.weight)] == 1
        ]

    def begin(self) -> None:
        """Begin a step: nothing has been used yet."""
        for layer in self.layers:
            layer.uses = 0


@contextmanager
def stepped_layers(module: nn.Module, learning_rate: float) -> Iterator[SteppedLayers]:
    """Let wide linear layers take their steps, as long as this lasts.

    Args:
        module: the network, whose gradients are asked for once a step, all together.
        learning_rate: η.
    """
    found = SteppedLayers(module, learning_rate)
    for layer in found.layers:
        layer.linear.forward = layer.forward  # type: ignore[method-assign]
    try:
        yield found
    finally:
        for layer in found.layers:
            del layer.linear.forward


def _is_free(linear: nn.Linear) -> bool:
    """Whether a layer is wide and on a CPU, and nobody else wants anything of it."""
    hooks = (
        linear._forward_hooks,
        linear._forward_pre_hooks,
        linear._backward_hooks,
        linear._backward_pre_hooks,
        linear.weight._backward_hooks,
        getattr(linear.weight, "_post_accumulate_grad_hooks", None),
    )
    return (
        type(linear).forward is nn.Linear.forward
        and linear.weight.numel() > MOST_LINEAR
        and linear.weight.requires_grad
        and linear.weight.is_cpu
        and not any(hooks)
        and "forward" not in vars(linear)
    )


class _Stepped:
    """A layer that takes its step.

    Attributes:
        linear: the layer.
        rate: η.
        uses: how often it was used in this step.
    """

    def __init__(self, linear: nn.Linear, rate: float) -> None:
        self.linear, self.rate, self.uses = linear, rate, 0

    def forward(self, input: Tensor) -> Tensor:
        """Outputs [N, out] of inputs [N, in]; of others as ever."""
        x, weight, bias = input, self.linear.weight, self.linear.bias
        if not torch.is_grad_enabled():
            return F.linear(x, weight, bias)
        self.uses += 1
        if x.ndim != 2:
            self.uses += 1  # it gets a gradient, so whoever else uses it has one too
            return F.linear(x, weight, bias)
        return _Step.apply(x, weight, bias, self)  # type: ignore[no-any-return, no-untyped-call]


class _Step(torch.autograd.Function):
    """From x, W and b to x·Wᵀ + b; the backward pass moves W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: _Stepped) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.layer, ctx.biased = layer, bias is not None
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        dx, dw = _product_back(dy, weight) if ctx.needs_input_grad[0] else None, None
        if ctx.layer.uses == 1:
            weight.addmm_(dy.t(), x, alpha=-ctx.layer.rate)
        else:
            dw = dy.t().mm(x)
        return dx, dw, dy.sum(0) if ctx.biased else None, None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x·Wᵀ + b [N, out]."""
    if not _by_onednn(x, weight):
        return F.linear(x, weight, bias)
    return F.linear(x.to_mkldnn(), weight, bias).to_dense()


def _product_back(dy: Tensor, weight: Tensor) -> Tensor:
    """dy·W [N, in]."""
    if not _by_onednn(dy, weight):
        return dy.mm(weight)
    # What autograd calls for the product above; by itself, as here weights get no gradient.
    backward: Callable[..., Tensor] = torch.ops.aten.mkldnn_linear_backward_input
    return backward([len(dy), weight.shape[1]], dy.to_mkldnn(), weight).to_dense()


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    return _BY_ONEDNN and x.dtype == weight.dtype == torch.float32
