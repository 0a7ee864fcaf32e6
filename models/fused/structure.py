"""Which layers a network is made of, as far as they have a backward pass here.

Found in what the network declares, its modules and their order; nothing asks for a name. A module of another class, or
a class whose `forward` is somebody's own, is not covered, and the network is trained by autograd.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from models.networks.builder import Conv2d, Linear
from models.networks.memory_order import PositionsInnermost
from models.networks.pool import MaxPool2x2
from models.networks.staged import Exit, Staged
from models.norms.layers import Scaler, StaticBatchNorm


class NotCoveredError(Exception):
    """Why a network has to be trained by autograd, in a few words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution:
    """[K, in, H, W, B] → [K, out, H', W', B]; without its bias where a norm takes the mean off anyway."""

    weight: Tensor
    bias: Tensor | None
    stride: int
    padding: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """[K, in, B] → [K, out, B]; the bias as in `Convolution`."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """Batch norm over everything but clients and channels; `epsilon` is of the unscaled activations."""

    weight: Tensor
    bias: Tensor
    epsilon: float


@dataclass(frozen=True, slots=True)
class Scale:
    """Multiplies by a number."""

    factor: float


@dataclass(frozen=True, slots=True)
class Relu:
    """max(x, 0)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxPool:
    """Largest of each window, and max(x, 0) of it where it is `rectified`."""

    size: int
    stride: int
    padding: int
    rectified: bool = False

    def pooled(self, side: int) -> int:
        """Length of the output along a side of this length."""
        return (side + 2 * self.padding - self.size) // self.stride + 1


@dataclass(frozen=True, slots=True)
class Mean:
    """Mean over everything between channels and examples."""


@dataclass(frozen=True, slots=True)
class Flatten:
    """[K, ..., B] → [K, features, B]."""


Layer = Convolution | Affine | Norm | Scale | Relu | MaxPool | Mean | Flatten


def layers_of(network: nn.Module) -> tuple[Layer, ...]:
    """The layers of a network in training mode, in their order, as they are computed here.

    Raises:
        NotCoveredError: something in it is not covered, or has parameters that would not be trained.
    """
    found = _found(network)
    read = [id(parameter) for layer in found for parameter in _parameters(layer)]
    used = set(read)
    if len(used) < len(read):
        raise NotCoveredError("a parameter that is used twice")
    if any(id(parameter) not in used for parameter in network.parameters()):
        raise NotCoveredError("parameters that its output does not depend on")
    if not all(parameter.requires_grad for parameter in network.parameters()):
        raise NotCoveredError("parameters that are held and not trained")
    if any(True for _ in network.buffers()):
        raise NotCoveredError("running statistics")
    return _rearranged(found)


def _found(module: nn.Module) -> list[Layer]:
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
        raise NotCoveredError(f"a {type(module).__name__} with hooks")
    if isinstance(module, Staged) and type(module).forward is Staged.forward:
        return _in_order([module.stem, *module.stages, *list(module.exits.values())[-1:]])
    kind = type(module)
    if isinstance(module, nn.Sequential) and kind is nn.Sequential:
        return _in_order(list(module))  # not `children`, which has a module once that stands there twice
    if isinstance(module, Exit) and kind is Exit:
        return [*_in_order([module.reduce, module.ready]), Mean(), *_found(module.classifier)]
    if kind in (nn.Identity, PositionsInnermost):
        return []
    if isinstance(module, nn.Conv2d) and kind in (Conv2d, nn.Conv2d):
        return [_convolution(module)]
    if isinstance(module, nn.Linear) and kind in (Linear, nn.Linear):
        return [Affine(weight=module.weight, bias=module.bias)]
    if isinstance(module, StaticBatchNorm) and kind is StaticBatchNorm:
        return [Norm(weight=module.weight, bias=module.bias, epsilon=module.epsilon)]
    if isinstance(module, Scaler) and kind is Scaler:
        return [Scale(module.factor)] if module.factor != 1 else []
    if kind is nn.ReLU:
        return [Relu()]
    if isinstance(module, nn.MaxPool2d) and kind in (MaxPool2x2, nn.MaxPool2d):
        return [_pool(module)]
    if isinstance(module, nn.Flatten) and kind is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
        return [Flatten()]
    raise NotCoveredError(f"a {kind.__name__}")


def _in_order(modules: Sequence[nn.Module]) -> list[Layer]:
    return [layer for module in modules for layer in _found(module)]


def _convolution(module: nn.Conv2d) -> Convolution:
    kernel, stride, padding = module.kernel_size, module.stride, module.padding
    plain = module.groups == 1 and module.dilation == (1, 1) and module.padding_mode == "zeros"
    if not plain or isinstance(padding, str) or stride[0] != stride[1] or padding[0] != padding[1]:
        raise NotCoveredError(f"a convolution with other than one stride and one padding ({kernel})")
    return Convolution(weight=module.weight, bias=module.bias, stride=stride[0], padding=int(padding[0]))


def _pool(module: nn.MaxPool2d) -> MaxPool:
    sides = module.kernel_size, module.stride, module.padding
    plain = module.dilation == 1 and not module.return_indices and not module.ceil_mode
    if not plain or not all(isinstance(side, int) for side in sides):
        raise NotCoveredError("a pool with other than square windows")
    size, stride, padding = (int(side) for side in sides if isinstance(side, int))
    return MaxPool(size=size, stride=stride, padding=padding)


def _parameters(layer: Layer) -> list[Tensor]:
    if isinstance(layer, Convolution | Affine | Norm):
        return [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
    return []


def _rearranged(layers: list[Layer]) -> tuple[Layer, ...]:
    """The same function in fewer operations.

    - s·x through a batch norm is x through one whose epsilon is divided by s².
    - What a batch norm subtracts includes the bias before it, whose gradient is 0 therefore.
    - The largest of max(x, 0) is max(largest of x, 0); where the largest is not above 0 nobody has a gradient.
    """
    done: list[Layer] = []
    for layer in layers:
        before = done[-1] if done else None
        if isinstance(layer, Norm):
            if isinstance(before, Scale):
                layer = replace(layer, epsilon=layer.epsilon / before.factor**2)
                done.pop()
                before = done[-1] if done else None
            if isinstance(before, Convolution | Affine):
                done[-1] = replace(before, bias=None)
        if isinstance(layer, MaxPool) and isinstance(before, Relu):
            layer = replace(layer, rectified=True)
            done.pop()
        if isinstance(layer, Relu) and isinstance(before, MaxPool):
            layer = replace(before, rectified=True)
            done.pop()
        done.append(layer)
    return tuple(done)
