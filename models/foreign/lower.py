"""Weights of a traced module that are held in fewer bits: the linear layers of its graphs compute with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import fx, nn

from models.adapters.frozen import hold
from models.adapters.precision import SCALE, held_linear


def lower_in_graphs(part: nn.Module, graphs: Iterable[fx.Graph], *, trained: Callable[[str], bool]) -> None:
    """Make linear layers ready for weights in fewer bits, which are put in place later.

    Args:
        part: holds the tensors that the graphs read.
        graphs: of training and of evaluation.
        trained: name of a tensor → whether it is; a layer with such a one stays as it is, and so does one whose weight
            is used for something else as well.
    """
    graphs, layers = list(graphs), dict[str, list[fx.Node]]()
    other = set[str]()
    for graph in graphs:
        for node in graph.nodes:
            if node.op != "get_attr":
                continue
            name = str(node.target)
            for use in node.users:
                bias = use.args[2] if len(use.args) > 2 else use.kwargs.get("bias")
                alone = _is_linear(use) and use.args[1] is node and use.args[0] is not node and bias is not node
                if alone and not (isinstance(bias, fx.Node) and (bias.op != "get_attr" or trained(str(bias.target)))):
                    layers.setdefault(name, []).append(use)
                else:
                    other.add(name)
    for name, uses in layers.items():
        path, _, leaf = name.rpartition(".")
        if name in other or trained(name) or leaf != "weight":
            continue
        owner = part.get_submodule(path)
        hold(owner, SCALE, torch.ones(()))
        for node in uses:
            inputs, weight, *rest = node.args
            with node.graph.inserting_before(node):
                scale = node.graph.get_attr(f"{path}.{SCALE}")
            node.target = held_linear
            node.args, node.kwargs = (inputs, weight, scale, *rest, *node.kwargs.values()), {}


def _is_linear(node: fx.Node) -> bool:
    return node.target is torch.ops.aten.linear.default
