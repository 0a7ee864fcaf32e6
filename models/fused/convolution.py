"""A convolution as copies of runs (its patches) and matrix products, and its gradients."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor

from models.fused.buffers import Buffers
from models.fused.structure import Convolution
from models.fused.taps import Taps

# Elements of the patches that are multiplied at once: about what a core's own cache holds. A constant and not this
# machine's figure, because sums depend on it.
BLOCK = 1 << 18


def border_of(layer: Convolution, shape: tuple[int, ...]) -> int:
    """How many zeros the patches reach on some side of inputs [K, C, H, W, B]."""
    return max(Taps.of(layer, shape[1:4], side).border for side in (0, 1))


class _Block:
    """Some rows of the output.

    Attributes:
        patches: what they see, [K, C, taps, taps, rows, W', B], a view of the inputs; None where `columns` are these.
        copied: where it is copied to.
        columns: the same [K, C·taps², rows·W'·B].
        y: these rows of the output [K, out, rows·W'·B].
        gradients: of the columns.
        folds: where these are added: (part of the inputs' gradient, part of theirs).
    """

    def __init__(self, patches: Tensor | None, copied: Tensor, y: Tensor, gradients: Tensor | None) -> None:
        self.patches, self.copied, self.y = patches, copied, y
        clients, _, positions = y.shape
        self.columns = copied.view(clients, -1, positions)
        self.turned = self.columns.transpose(1, 2)
        self.gradients = None if gradients is None else gradients.view(self.columns.shape)
        self.folds: list[tuple[Tensor, Tensor]] = []

    def read(self) -> None:
        """Copy the patches."""
        if self.patches is not None:
            self.copied.copy_(self.patches)


class Convolved:
    """One convolution over buffers.

    Args:
        layer: what it is.
        x: its inputs [K, C, H, W, B], with as many zeros around them as `border_of` says.
        buffers: where it takes its own from.
        first: whether nobody needs the gradient of its inputs.

    Attributes:
        out: its outputs [K, out, H', W', B].
    """

    def __init__(self, layer: Convolution, x: Tensor, buffers: Buffers, *, first: bool) -> None:
        clients, _, _, _, batch = shape = tuple(x.shape)
        rows, columns = (Taps.of(layer, shape[1:4], side) for side in (0, 1))
        outputs, taps = layer.weight.shape[0], (rows.count, columns.count)
        self._matrix = buffers.weight(layer.weight).view(clients, outputs, -1)
        self._matrix_gradient = buffers.gradient(layer.weight).view(clients, outputs, -1)
        self._turned = self._matrix.transpose(1, 2)
        self._bias = self._bias_gradient = None
        if layer.bias is not None:
            self._bias, self._bias_gradient = buffers.weight(layer.bias)[:, :, None], buffers.gradient(layer.bias)
        self.out = buffers.empty(clients, outputs, rows.outputs, columns.outputs, batch)
        self._y = self.out.view(clients, outputs, -1)
        self._dx = None if first else buffers.empty(*shape)
        if prod(taps) == 1 and layer.stride == 1 and x.is_contiguous():  # the inputs are their own patches
            self._blocks = [_Block(None, x, self._y, self._dx)]
        else:
            self._blocks = list(self._cut(x, rows, columns, buffers))
        folds = [part for block in self._blocks for part, _ in block.folds]
        self._added = bool(folds) and (len(self._blocks) > 1 or folds[0].shape != x.shape)

    def _cut(self, x: Tensor, rows: Taps, columns: Taps, buffers: Buffers) -> Iterator[_Block]:
        """Divide the output's rows into blocks and find what each multiplies and where its gradients go."""
        clients, channels, _, _, batch = x.shape
        taps, down, right = (rows.count, columns.count), x.stride(2), x.stride(3)
        patches = x.as_strided(
            (clients, channels, *taps, rows.outputs, columns.outputs, batch),
            (x.stride(0), x.stride(1), down, right, rows.stride * down, columns.stride * right, 1),
            x.storage_offset() + rows.place(0, rows.begin) * down + columns.place(0, columns.begin) * right,
        )
        row = channels * prod(taps) * columns.outputs * batch  # elements of the patches of one
        height = min(rows.outputs, max(1, BLOCK // row))
        scratch = buffers.empty(clients * height * row)
        of_patches = None if self._dx is None else buffers.empty(scratch.numel())
        across = columns.outputs * batch
        for begin in range(0, rows.outputs, height):
            end = min(begin + height, rows.outputs)
            seen = patches[:, :, :, :, begin:end]
            copied = scratch[: seen.numel()].view(seen.shape)
            gradients = None if of_patches is None else of_patches[: seen.numel()].view(seen.shape)
            block = _Block(seen, copied, self._y[:, :, begin * across : end * across], gradients)
            if gradients is not None and self._dx is not None:
                block.folds = _folds(gradients, self._dx, rows, columns, range(begin, end))
            yield block

    def forward(self) -> None:
        """Compute `out`."""
        for block in self._blocks:
            block.read()
            torch.bmm(self._matrix, block.columns, out=block.y)
        if self._bias is not None:  # not in the products: PyTorch would spread it over the outputs first
            self._y.add_(self._bias)

    def backward(self, dy: Tensor) -> Tensor | None:
        """From the gradient of `out`, contiguous, to that of the inputs; writes those of the parameters."""
        dy = dy.view(self._y.shape)
        if self._bias_gradient is not None:
            torch.sum(dy, 2, out=self._bias_gradient)
        if self._dx is not None and self._added:
            self._dx.zero_()
        begin = 0
        for block in self._blocks:
            part, again = dy, len(self._blocks) > 1
            if again:
                end = begin + block.y.shape[2]
                part, begin = dy[:, :, begin:end], end
                block.read()
            if block is self._blocks[0]:
                torch.bmm(part, block.turned, out=self._matrix_gradient)
            else:
                self._matrix_gradient.baddbmm_(part, block.turned)
            if block.gradients is not None:
                torch.bmm(self._turned, part, out=block.gradients)
                self._fold(block)
        return self._dx

    def _fold(self, block: _Block) -> None:
        folds = iter(block.folds)
        if not self._added:
            for to, of in folds:  # the first lands on every input
                to.copy_(of)
                break
        for to, of in folds:
            to.add_(of)


def _folds(gradients: Tensor, dx: Tensor, rows: Taps, columns: Taps, outputs: range) -> list[tuple[Tensor, Tensor]]:
    """Where the gradients of some output rows' patches are added: (part of the inputs' gradient, part of theirs)."""
    middle, found = (rows.count // 2, columns.count // 2), []
    offsets = [(down, right) for down in range(rows.count) for right in range(columns.count)]
    # The middle first: where the output is as large as the input it meets every input.
    for down, right in sorted(offsets, key=lambda at: at != middle):
        tap, along = rows.begin + down, columns.begin + right
        ours, theirs = rows.meeting(tap, outputs), columns.meeting(along, range(columns.outputs))
        if ours and theirs:
            of = gradients[:, :, down, right, ours.start - outputs.start : ours.stop - outputs.start]
            to = dx[:, :, rows.seen(tap, ours), columns.seen(along, theirs)]
            found.append((to, of[:, :, :, theirs.start : theirs.stop]))
    return found
