"""A pair of factors beside a linear layer: y = W·x + b + (α/R)·B·(A·x); see `models.algebra.pairs`.

Beside a convolution with a kernel of k numbers, A is one like it with R channels of output, and B a 1x1 convolution of
these, as in peft. They are matrices here too, of (R, n·k) and (m, R), the kernel behind each input, and so is the
product beside the weight (m, n, k); whatever works on pairs needs to know nothing of kernels.

In other forms of an adapter the factors are held, and what stands between them is trained (`models.adapters.cores`), or
B is a device's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.adapters.adapter import CORE as WITH_CORE
from models.adapters.adapter import HEADS as WITH_HEADS
from models.adapters.adapter import SHARED_A, Adapter
from models.adapters.cores import CORE, HEADS, add_core, add_heads, between, hold_factors
from models.adapters.dropout import DROPOUT, Dropout
from models.adapters.own import own
from models.algebra.axes import Along, Axis, Beside, Dim, Kind, Layout, Place, heads
from models.algebra.declarations import declare, declared_dims
from models.algebra.groups import RANK

A, B = "lora_A", "lora_B"
ATTENDS = "ATTENDS"  # of modules whose linear layers are an attention's
FACTOR = "_flotilla_factor"
_TRANSPOSED = "_flotilla_transposed"
_NAMED_BY = "_flotilla_named_by"
GEOMETRY = "_flotilla_geometry"  # what a traced convolution has, as `beyond_zeros` says it
_CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d}  # by dimensions of the weight


def rank_axis(path: str) -> str:
    """Name of the rank axis of a layer's pair."""
    return f"rank:{path}"


def add_pair(
    module: nn.Module,
    path: str,
    dims: tuple[Dim, ...],
    *,
    adapter: Adapter,
    sizes: Mapping[str, int],
    place: Place | None = None,
    transposed: bool = False,
    named_by: tuple[str, ...] = (),
) -> None:
    """Give a module that has the weight of a linear layer (m, n) a pair of factors, zero, or a core between two.

    The weight may be a convolution's of one group, (m, n, kernel).

    Args:
        module: the layer, or what stands for it.
        path: its name in the network.
        dims: what the weight's dimensions run along.
        adapter: rank and factor.
        sizes: kept ranks by axis; an axis that is absent is full.
        place: where in depth they stand; None: where the module does.
        transposed: whether the weight is stored as (n, m), as GPT-2's are.
        named_by: the adapter's targets that mean it.
    """
    weight, axis = module.weight, rank_axis(path)
    assert isinstance(weight, Tensor)
    rows, columns = len(weight), prod(weight.shape[1:])
    outputs, inputs = dims[0], _with_kernel(dims[1], prod(weight.shape[2:]))
    if transposed:
        rows, columns, outputs, inputs = columns, rows, inputs, outputs
    setattr(module, _TRANSPOSED, transposed)
    setattr(module, _NAMED_BY, named_by)
    rank = sizes.get(axis, adapter.rank)
    setattr(module, FACTOR, adapter.factor_of(rank))
    if adapter.dropout:
        module.add_module(DROPOUT, Dropout(adapter.dropout))
    if adapter.form in (WITH_CORE, WITH_HEADS):
        hold_factors(module, (A, B), path, shape=(rows, columns), adapter=adapter, rank=rank)
        if adapter.form == WITH_CORE:
            add_core(module, axis, rank=rank, place=place)
        else:
            add_heads(module, adapter=adapter, place=place)
        return
    module.register_parameter(A, nn.Parameter(torch.zeros(rank, columns)))
    if adapter.form == SHARED_A:
        own(module, B, torch.zeros(rows, rank))
    else:
        module.register_parameter(B, nn.Parameter(torch.zeros(rows, rank)))
    places = None if place is None else {A: place, B: place}
    declare(module, {A: (axis, inputs), B: (outputs, axis)}, places=places)


def add_pairs(network: nn.Module, adapter: Adapter, sizes: Mapping[str, int], *, but: Callable[[str], bool]) -> None:
    """Give every layer of a network that is meant a pair; convolutions with groups have none.

    Args:
        network: of declared layers.
        adapter: what is trained.
        sizes: kept ranks by axis.
        but: name of a weight → whether it is trained itself.
    """
    if not adapter.rank:
        return
    for path, module in list(network.named_modules()):
        convolution = isinstance(module, nn.Conv1d | nn.Conv2d) and module.groups == 1
        if not (convolution or isinstance(module, nn.Linear)) or but(f"{path}.weight"):
            continue
        dims, above = declared_dims(module)["weight"], network.get_submodule(path.rpartition(".")[0])
        named = adapter.naming(dims, attention=getattr(above, ATTENDS, False), convolution=convolution)
        if named:
            add_pair(module, path, dims, adapter=adapter, sizes=sizes, named_by=named)
            module.register_forward_hook(_add_product)


def _with_kernel(dim: Dim, kernel: int) -> Dim:
    """A convolution's inputs, each with the numbers of its kernel behind it."""
    if isinstance(dim, Along):
        return replace(dim, inner=dim.inner * kernel)
    if isinstance(dim, Beside):
        stretches = (
            one * kernel if isinstance(one, int) else replace(one, inner=one.inner * kernel) for one in dim.stretches
        )
        return Beside(tuple(stretches))
    return dim


def paths_of_pairs(network: nn.Module) -> list[str]:
    """The layers that have a pair, by name, in the network's order."""
    return [path for path, module in network.named_modules() if hasattr(module, FACTOR)]


def is_transposed(module: nn.Module) -> bool:
    """Whether a layer has a pair and its weight is stored as (inputs, outputs)."""
    return bool(getattr(module, _TRANSPOSED, False))


def beyond_zeros(module: nn.Module) -> str:
    """What a convolution's geometry has beyond a kernel, a stride and zeros around the inputs, in words; or ""."""
    if not isinstance(module, nn.Conv1d | nn.Conv2d):
        return str(getattr(module, GEOMETRY, ""))
    return geometry(module.dilation, module.padding_mode)


def geometry(dilation: Iterable[int], mode: str) -> str:
    """`beyond_zeros`, of a dilation and a mode of padding."""
    found = ["a dilation"] if any(step != 1 for step in dilation) else []
    return " and ".join(found if mode in ("zeros", "constant") else [*found, f"{mode} padding"])


def targets_met(network: nn.Module) -> frozenset[str]:
    """The targets of its adapter for which some layer has a pair."""
    return frozenset(target for module in network.modules() for target in getattr(module, _NAMED_BY, ()))


def names_of_pairs(network: nn.Module) -> frozenset[str]:
    """Names of all that is trained beside a weight: of both factors, or of what stands between them."""
    return frozenset(
        f"{path}.{name}"
        for path in paths_of_pairs(network)
        for name, _ in network.get_submodule(path).named_parameters()
        if name.partition(".")[0] in (A, B, CORE, HEADS)
    )


def beside_base(layout: Layout) -> list[str]:
    """Of the layout of a network with an adapter, names of what is trained other than the head."""
    others = heads(layout) | set(layout.beside.values())
    return [name for name in layout.tensors if name not in others]


def weights_beside(network: nn.Module) -> dict[str, str]:
    """Rank axis → name of the weight that its pair's product is added to."""
    return {rank_axis(path): f"{path}.weight" for path in paths_of_pairs(network)}


def first_a(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A of a pair that nobody has trained, (R, n): drawn as a linear layer's weight is; its B is zero."""
    bound = 1 / sqrt(shape[1])
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def product(module: nn.Module) -> Tensor:
    """(α/R)·B·A or (α/R)·B·C·A beside a layer's weight, which adds to it, in the weight's shape."""
    a, b, core = getattr(module, A), getattr(module, B), between(module)
    found: Tensor = getattr(module, FACTOR) * (b @ (a if core is None else core @ a))
    weight = module.weight
    assert isinstance(weight, Tensor)
    return found.T if is_transposed(module) else found.view(weight.shape)


def axes_with_ranks(axes: Mapping[str, Axis], network: nn.Module, adapter: Adapter) -> dict[str, Axis]:
    """The axes of a network with pairs: ranks are cut, unless they are heads'; its base's where the adapter says so."""
    kind, group = (Kind.BASE, RANK) if adapter.cut else (Kind.FIXED, "")
    base = {
        name: Axis(name, one.size, kind if one.kind.cut else one.kind, group=one.group if adapter.cut else "")
        for name, one in axes.items()
    }
    names = [rank_axis(path) for path in paths_of_pairs(network)] if not adapter.heads else []
    return base | {name: Axis(name, adapter.rank, Kind.RANK, group=group) for name in names}


def _add_product(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    a, b, factor, core = getattr(module, A), getattr(module, B), getattr(module, FACTOR), between(module)
    x = module.get_submodule(DROPOUT)(inputs[0]) if hasattr(module, DROPOUT) else inputs[0]
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        added: Tensor = factor * _convolved(module, x, (a, b, core))
    else:
        inner = F.linear(x, a)
        added = factor * F.linear(inner if core is None else F.linear(inner, core), b)
    return output + added


def _convolved(layer: nn.Conv1d | nn.Conv2d, x: Tensor, factors: tuple[Tensor, Tensor, Tensor | None]) -> Tensor:
    a, b, core = factors
    convolution, points = _CONVOLUTIONS[layer.weight.dim()], (1,) * (layer.weight.dim() - 2)
    kernel = a.view(len(a), *layer.weight.shape[1:])
    found: Tensor = convolution(x, kernel, None, layer.stride, layer.padding, layer.dilation)
    for one in (b,) if core is None else (core, b):
        found = convolution(found, one.view(*one.shape, *points))
    return found
