"""Pairs of low-rank factors beside the layers of a traced module: its graphs are changed, its code is not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from models.adapters.adapter import Adapter
from models.adapters.cores import CORE, HEADS
from models.adapters.dropout import DROPOUT
from models.adapters.low_rank import FACTOR, GEOMETRY, A, B, add_pair, geometry
from models.algebra.axes import Dim, Place

# Where a linear layer's operation has its inputs and its weight, which an `addmm` (GPT-2) has as (inputs, outputs).
_LAYERS = {torch.ops.aten.linear.default: (0, 1), torch.ops.aten.addmm.default: (1, 2)}
# Convolutions have inputs, weight, bias, stride, padding, dilation and groups.
_CONVOLUTIONS = {getattr(torch.ops.aten, f"conv{n}d"): n for n in (1, 2)}
_DILATION, _GROUPS = 5, 6
_MIXES = "scaled_dot_product_attention"


def add_pairs_to_graphs(
    part: nn.Module,
    graphs: Iterable[fx.Graph],
    *,
    adapter: Adapter,
    sizes: Mapping[str, int],
    dims: Mapping[str, tuple[Dim, ...]],
    places: Mapping[str, Place],
    but: Callable[[str], bool],
) -> None:
    """Give every layer that is meant a pair, and add the product in every graph that uses the layer.

    A weight that something else reads too has none, such as an embedding that is the head: the product is the layer's.
    Nor has a convolution with groups.

    Args:
        part: holds the tensors that the graphs read.
        graphs: of training and of evaluation.
        adapter: what is trained.
        sizes: kept ranks by axis.
        dims: what the weights' dimensions run along.
        places: where in depth the weights stand.
        but: name of a weight → whether it is trained itself.
    """
    if not adapter.rank:
        return
    graphs, done = list(graphs), set[str]()
    shared = {name for graph in graphs for name in _read_elsewhere(graph)}
    for graph in graphs:
        layers = [node for node in graph.nodes if _weight(node) in dims and _weight(node) not in shared]
        attention = _of_attention(graph)
        for node in layers:
            name = _weight(node)
            path = name.rpartition(".")[0]
            named = adapter.naming(dims[name], attention=node in attention, convolution=bool(_sides(node)))
            if name != f"{path}.weight" or but(name) or not named:
                continue
            if name not in done:
                module = part.get_submodule(path)
                add_pair(
                    module,
                    path,
                    dims[name],
                    adapter=adapter,
                    sizes=sizes,
                    place=places[name],
                    transposed=performs(node, "addmm"),
                    named_by=named,
                )
                setattr(module, GEOMETRY, _geometry(node, path))
                done.add(name)
            _add_product(graph, node, path, part.get_submodule(path))


def _add_product(graph: fx.Graph, node: fx.Node, path: str, layer: nn.Module) -> None:
    uses, sides = list(node.users), _sides(node)
    with graph.inserting_after(node):
        total = graph.call_function(torch.ops.aten.add.Tensor, (node, node))
    with graph.inserting_before(total):
        x = node.args[0 if sides else _LAYERS[node.target][0]]  # type: ignore[index]
        if hasattr(layer, DROPOUT):
            x = graph.call_module(f"{path}.{DROPOUT}", (x,))
        geometry = (None, *node.args[3:_GROUPS]) if sides else ()
        inner = _multiplied(graph, (x, graph.get_attr(f"{path}.{A}")), layer.weight, geometry)
        between = []
        if hasattr(layer, CORE):
            between.append(graph.get_attr(f"{path}.{CORE}"))
        if hasattr(layer, HEADS):
            between.append(_diagonal(graph, f"{path}.{HEADS}", len(getattr(layer, HEADS))))
        for matrix in (*between, graph.get_attr(f"{path}.{B}")):
            inner = _multiplied(graph, (inner, matrix), layer.weight)
        scaled = graph.call_function(torch.ops.aten.mul.Tensor, (inner, getattr(layer, FACTOR)))
    total.args = (node, scaled)
    for use in uses:
        use.replace_input_with(node, total)


def _multiplied(
    graph: fx.Graph, given: tuple[Any, fx.Node], weight: Tensor | nn.Module, geometry: tuple[Any, ...] | None = None
) -> fx.Node:
    """A factor (r, n·k) on inputs: as a linear layer, or as a convolution like the weight's, or of 1x1 after that.

    Args:
        graph: where an operation is added.
        given: inputs and factor.
        weight: of the layer.
        geometry: of the layer's convolution, bias (none) first; None: of 1x1.
    """
    assert isinstance(weight, Tensor)
    x, factor = given
    if weight.dim() == 2:
        return graph.call_function(torch.ops.aten.linear.default, (x, factor))
    dimensions = weight.dim() - 2
    kernel = graph.call_method("unflatten", (factor, 1, (-1, *(weight.shape[2:] if geometry else (1,) * dimensions))))
    convolution = torch.nn.functional.conv1d if dimensions == 1 else torch.nn.functional.conv2d
    return graph.call_function(convolution, (x, kernel, *(geometry or ())))


def _sides(node: fx.Node) -> int:
    """Dimensions of a convolution without groups; 0 of all else."""
    if not isinstance(node.target, torch._ops.OpOverload) or (len(node.args) > _GROUPS and node.args[_GROUPS] != 1):
        return 0
    return _CONVOLUTIONS.get(node.target.overloadpacket, 0)


def _geometry(node: fx.Node, path: str) -> str:
    """What `beyond_zeros` says of a layer: other padding than zeros is an operation of its own before it.

    Nothing of it is the layer's where another module pads, as that module does so in whatever adds a pair.
    """
    if not _sides(node):
        return ""
    dilation = node.args[_DILATION] if len(node.args) > _DILATION else ()
    before, mode = node.args[0], "zeros"
    if isinstance(before, fx.Node) and performs(before, "pad") and len(before.args) > 2:
        stack = [module for module, *_ in (before.meta.get("nn_module_stack") or {}).values()]
        mode = str(before.args[2]) if not stack or stack[-1] == path else mode
    return geometry(dilation if isinstance(dilation, list | tuple) else (dilation,), mode)


def _diagonal(graph: fx.Graph, path: str, count: int) -> fx.Node:
    """The matrix with all heads on its diagonal, each with its scale."""
    heads = tuple(
        graph.call_function(
            torch.ops.aten.mul.Tensor, tuple(graph.get_attr(f"{path}.{i}.{leaf}") for leaf in ("scale", "core"))
        )
        for i in range(count)
    )
    return graph.call_function(torch.block_diag, heads)


def _weight(node: fx.Node) -> str:
    """Name of what a layer multiplies with; "" where it is none, or that is no tensor of the module."""
    at = 1 if _sides(node) else _LAYERS[node.target][1] if node.target in _LAYERS else 0
    weight = node.args[at] if at else None
    return str(weight.target) if isinstance(weight, fx.Node) and weight.op == "get_attr" else ""


def _read_elsewhere(graph: fx.Graph) -> Iterator[str]:
    """Tensors that something reads which is no layer with this weight."""
    for node in graph.nodes:
        if node.op == "get_attr" and any(_weight(use) != node.target for use in node.users):
            yield str(node.target)


def _of_attention(graph: fx.Graph) -> set[fx.Node]:
    """Linear layers that lie next to an attention: the last before its inputs, the first after its output."""
    found = set[fx.Node]()
    for node in graph.nodes:
        if performs(node, _MIXES):
            found |= _nearest(node, lambda one: one.all_input_nodes) | _nearest(node, lambda one: list(one.users))
    return found


def _nearest(start: fx.Node, step: Callable[[fx.Node], list[fx.Node]]) -> set[fx.Node]:
    found, seen, ahead = set[fx.Node](), {start}, step(start)
    while ahead:
        node = ahead.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.target in _LAYERS:
            found.add(node)
        else:
            ahead += step(node)
    return found


def performs(node: fx.Node, operation: str) -> bool:
    """Whether a node is this operation of ATen's, in any of its forms."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.name == f"aten::{operation}"
