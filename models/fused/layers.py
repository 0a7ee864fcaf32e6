"""Every layer but convolutions, over buffers, with its gradients; and the mean cross entropy in which they end.

Each is made for the buffer that holds its inputs and has its outputs in `out`. `forward` computes these; `backward`
takes their gradient, contiguous and in whatever shape, which it may write over, and gives that of the inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from models.fused.buffers import Buffers
from models.fused.structure import Affine, MaxPool, Norm, Scale

_aten = torch.ops.aten
_norm_backward = _aten.native_group_norm_backward.default
_pool_forward = _aten.max_pool2d_with_indices.default
_pool_backward = _aten.max_pool2d_with_indices_backward.default
_relu_backward = _aten.threshold_backward.grad_input

Room = Callable[[tuple[int, ...]], Tensor]  # shape → a buffer for a layer's outputs


class Layered(Protocol):
    """A layer over buffers; see the module."""

    out: Tensor

    def forward(self) -> None:
        """Compute `out`."""

    def backward(self, dy: Tensor) -> Tensor | None:
        """From the gradient of `out` to that of the inputs, None where nobody needs it; writes those of parameters."""


class Multiplied:
    """A linear layer: x [K, in, B] → [K, out, B]."""

    def __init__(self, layer: Affine, x: Tensor, buffers: Buffers, *, first: bool) -> None:
        self._x, self._weight, self._gradient = x, buffers.weight(layer.weight), buffers.gradient(layer.weight)
        self._bias = self._bias_gradient = None
        if layer.bias is not None:
            self._bias, self._bias_gradient = buffers.weight(layer.bias)[:, :, None], buffers.gradient(layer.bias)
        self._x_turned, self._weight_turned = x.transpose(1, 2), self._weight.transpose(1, 2)
        self.out = buffers.empty(len(x), self._weight.shape[1], x.shape[2])
        self._dx = None if first else buffers.empty(*x.shape)

    def forward(self) -> None:
        """Compute `out`."""
        torch.bmm(self._weight, self._x, out=self.out)
        if self._bias is not None:
            self.out.add_(self._bias)

    def backward(self, dy: Tensor) -> Tensor | None:
        """See `Layered`."""
        dy = dy.view(self.out.shape)
        torch.bmm(dy, self._x_turned, out=self._gradient)
        if self._bias_gradient is not None:
            torch.sum(dy, 2, out=self._bias_gradient)
        if self._dx is not None:
            torch.bmm(self._weight_turned, dy, out=self._dx)
        return self._dx


class Normed:
    """Batch norm of x [K, C, ..., B]: to PyTorch a group norm of one example whose groups are single channels.

    That kernel's backward pass is given the normalised activations, of mean 0 and deviation 1, in place of x: of x it
    would subtract large numbers from each other where the mean is far above the deviation.
    """

    def __init__(self, layer: Norm, x: Tensor, buffers: Buffers, room: Room) -> None:
        clients, channels = x.shape[:2]
        rows, self._positions, self._epsilon = clients * channels, prod(x.shape[2:]), layer.epsilon
        self._rows, self._x = rows, x.view(1, rows, self._positions)
        self._own = [buffers.weight(layer.weight), buffers.weight(layer.bias)]
        self._gradients = [buffers.gradient(layer.weight), buffers.gradient(layer.bias)]
        # Clients' rows lie apart; one client's need not be copied.
        self._copies = [one if clients == 1 else buffers.empty(*one.shape) for one in self._own]
        self._flat = self._copies[0].view(1, rows)
        self._zeros, self._ones = x.new_zeros(1, rows), x.new_ones(1, rows)
        self.out = room(tuple(x.shape))
        self._y = self.out.view(self._x.shape) if self.out.is_contiguous() else self.out
        sides = (1, rows, 1) if self.out.is_contiguous() else (clients, channels, *[1] * (x.ndim - 2))
        self._weight, self._bias = (one.view(sides) for one in self._copies)
        self._normal = self._deviation = self._x

    def forward(self) -> None:
        """Compute `out`."""
        for own, copy in zip(self._own, self._copies, strict=True):
            if own is not copy:
                copy.copy_(own)
        rows = self._rows
        self._normal, _, self._deviation = torch.native_group_norm(
            self._x, None, None, 1, rows, self._positions, rows, self._epsilon
        )
        normal = self._normal if self._y.ndim == 3 else self._normal.view(self._y.shape)
        torch.addcmul(self._bias, normal, self._weight, out=self._y)

    def backward(self, dy: Tensor) -> Tensor:
        """See `Layered`."""
        rows, scale = self._rows, self._flat * self._deviation
        dx, *gradients = _norm_backward(
            dy.view(self._x.shape),
            self._normal,
            self._zeros,
            self._ones,
            scale,
            1,
            rows,
            self._positions,
            rows,
            [True, True, True],
        )
        for ours, found in zip(self._gradients, gradients, strict=True):
            ours.copy_(found if found.shape == ours.shape else found.view(ours.shape))
        return dx  # type: ignore[no-any-return]


class Scaled:
    """Multiplies by a number."""

    def __init__(self, layer: Scale, x: Tensor, room: Room) -> None:
        self._x, self._factor, self.out = x, layer.factor, room(tuple(x.shape))

    def forward(self) -> None:
        """Compute `out`."""
        torch.mul(self._x, self._factor, out=self.out)

    def backward(self, dy: Tensor) -> Tensor:
        """See `Layered`."""
        return dy.mul_(self._factor)


class Rectified:
    """max(x, 0)."""

    def __init__(self, x: Tensor, room: Room) -> None:
        self._x, self.out = x, room(tuple(x.shape))

    def forward(self) -> None:
        """Compute `out`."""
        torch.clamp_min(self._x, 0, out=self.out)

    def backward(self, dy: Tensor) -> Tensor:
        """See `Layered`."""
        dy = dy if dy.shape == self.out.shape else dy.view(self.out.shape)
        return _relu_backward(dy, self.out, 0, grad_input=dy)  # type: ignore[no-any-return]


class Pooled:
    """The largest of every window of x [K, C, H, W, B]; to PyTorch images of B channels, which lie innermost."""

    def __init__(self, layer: MaxPool, x: Tensor, room: Room) -> None:
        clients, channels, *sides, batch = x.shape
        self._window = [layer.size] * 2, [layer.stride] * 2, [layer.padding] * 2, [1, 1], False
        pooled = map(layer.pooled, sides)
        self._rectified, self._x = layer.rectified, _images(x)
        self.out = room((clients, channels, *pooled, batch))
        self._y = self._places = _images(self.out)
        self._rows = self.out.view(-1, *self.out.shape[2:]).shape

    def forward(self) -> None:
        """Compute `out`."""
        largest, self._places = _pool_forward(self._x, *self._window)
        if self._rectified:
            torch.clamp_min(largest, 0, out=self._y)
        else:
            self._y.copy_(largest)

    def backward(self, dy: Tensor) -> Tensor:
        """See `Layered`."""
        dy = dy.view(self._rows).permute(0, 3, 1, 2)
        if self._rectified:
            _relu_backward(dy, self._y, 0, grad_input=dy)
        dx = _pool_backward(dy, self._x, *self._window, self._places)
        return dx.permute(0, 2, 3, 1).contiguous()  # type: ignore[no-any-return]


class Reshaped:
    """The same numbers in another shape."""

    def __init__(self, x: Tensor, shape: tuple[int, ...]) -> None:
        self._shape, self.out = x.shape, x.view(shape)

    def forward(self) -> None:
        """Nothing to compute."""

    def backward(self, dy: Tensor) -> Tensor:
        """See `Layered`."""
        return dy.view(self._shape)


class Averaged:
    """The mean over everything between channels and examples: x [K, C, ..., B] → [K, C, B]."""

    def __init__(self, x: Tensor, buffers: Buffers) -> None:
        self._x = x.view(*x.shape[:2], -1, x.shape[-1])
        self._share = 1 / self._x.shape[2]
        self.out = buffers.empty(*x.shape[:2], x.shape[-1])
        self._dx = buffers.empty(*x.shape)
        self._spread = self._dx.view(self._x.shape)

    def forward(self) -> None:
        """Compute `out`."""
        torch.mean(self._x, 2, out=self.out)

    def backward(self, dy: Tensor) -> Tensor:
        """See `Layered`."""
        self._spread.copy_(dy.view(self.out.shape).mul_(self._share).unsqueeze(2))
        return self._dx


def _images(x: Tensor) -> Tensor:
    """[K, C, H, W, B] as [K·C, B, H, W]: a view."""
    return x.view(-1, *x.shape[2:]).permute(0, 3, 1, 2)


def one_hot(labels: Tensor, classes: int, like: Tensor) -> Tensor:
    """Labels [N] as columns [classes, N] of 0 and one 1."""
    return torch.zeros(classes, len(labels), dtype=like.dtype).scatter_(0, labels.unsqueeze(0), 1.0)


def log_probabilities(logits_KCB: Tensor, absent_KC1: Tensor | None) -> Tensor:
    """Logarithms of the probabilities of classes; the logits of absent ones count as 0 (HeteroFL §3.3)."""
    if absent_KC1 is not None:
        logits_KCB.masked_fill_(absent_KC1, 0.0)
    return torch.log_softmax(logits_KCB, 1)


def gradient(log_probabilities_KCB: Tensor, wanted_KCB: Tensor, absent_KC1: Tensor | None) -> Tensor:
    """The gradient of every client's mean cross entropy -Σ wanted · log p / B by the logits, a new tensor."""
    found = log_probabilities_KCB.exp().sub_(wanted_KCB).mul_(1 / log_probabilities_KCB.shape[2])
    return found if absent_KC1 is None else found.masked_fill_(absent_KC1, 0.0)
