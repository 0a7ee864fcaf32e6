"""Puts the norm of a run in place of the batch norms of a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import fx, nn

from models.algebra.axes import Dim
from models.foreign.atoms import size_of
from models.foreign.axes import Found
from models.foreign.sizes import Sizes

# A batch norm of the original → what its inputs pass first, if anything, and the layer that stands in its place.
MakeNorm = Callable[["BatchNorm"], tuple[nn.Module | None, nn.Module]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNorm:
    """A batch norm of the original network that is to be replaced.

    Attributes:
        dim: what its channels run along.
        size: channels at full width.
        channels: channels of this part.
        momentum: weight of the newest batch in running statistics.
        epsilon: added to the variance.
    """

    dim: Dim
    size: int
    channels: int
    momentum: float
    epsilon: float


def replace_norm(
    found: Found,
    graph: fx.Graph,
    node: fx.Node,
    making: tuple[Sizes, MakeNorm, dict[str, tuple[nn.Module, str]]],
) -> set[str]:
    """Put a layer in place of a batch norm; returns the names of the tensors that it makes superfluous."""
    kept, make_norm, norms = making
    weight, bias, mean, variance = node.args[1:5]
    names = {str(one.target) for one in (weight, bias, mean, variance) if isinstance(one, fx.Node)}
    if not isinstance(weight, fx.Node) or str(weight.target) not in found.dims:
        return set()  # without weight and bias, or frozen ones: it stays as it is
    path = str(weight.target).rpartition(".")[0]
    before = f"before.{path.replace('.', '_')}"
    if path not in norms:
        channels = found.traced.tensors[str(weight.target)].dims[0]
        first, layer = make_norm(
            BatchNorm(
                dim=found.dims[str(weight.target)][0],
                size=size_of(channels),
                channels=kept.of(channels),
                momentum=float(node.args[6]),  # type: ignore[arg-type]
                epsilon=float(node.args[7]),  # type: ignore[arg-type]
            )
        )
        norms[path] = layer, str(weight.target)
        if first is not None:
            norms[before] = first, str(weight.target)
    with graph.inserting_before(node):
        inputs = node.args[0]
        if before in norms:
            inputs = graph.call_module(before, (inputs,))
        normalised = graph.call_module(path, (inputs,))
    node.replace_all_uses_with(normalised)
    graph.erase_node(node)
    return names
