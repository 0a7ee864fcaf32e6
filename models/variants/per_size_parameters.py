"""Tensors of which every submodel has a copy of its own: NeFL's norms and step sizes, InclusiveFL's last layers.

The copies stand in the global state under names of their own; a submodel's local name points at its copy. So they are
sent, averaged and saved like everything else, only among those who hold the same submodel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from models.algebra.axes import Layout, TensorLayout
from models.algebra.plans import Plan
from models.algebra.plans import submodel as cut
from models.algebra.submodel import Block, Submodel

# "norm" and "step" are roles of tensors; "stage" is the deepest stage of a submodel that is not the deepest.
PRIVATE = ("norm", "step", "stage")


def layout_with_copies(layout: Layout, groups: Sequence[str], variants: Sequence[Plan]) -> Layout:
    """Add the copies of every variant, and leave out what nobody shares any more.

    Args:
        layout: of the network.
        groups: what is private, among `PRIVATE`.
        variants: the submodels that have copies.
    """
    tensors = {name: tensor for name, tensor in layout.tensors.items() if tensor.role not in groups}
    for index, plan in enumerate(variants if groups else ()):
        for name, block in cut(layout, plan).items():
            if _own(layout, layout.tensors[name], groups, plan):
                tensors[_copy(index, name)] = TensorLayout(
                    shape=block.local_shape, dims=(None,) * len(block.local_shape), buffer=layout.tensors[name].buffer
                )
    return Layout(layout.axes, tensors)


def submodel_with_copies(
    part: Submodel, layout: Layout, groups: Sequence[str], variants: Sequence[Plan], plan: Plan
) -> Submodel:
    """Point a submodel's private tensors at its copies.

    Raises:
        ValueError: the plan is none of the variants.
    """
    if plan not in variants:
        raise ValueError(f"{plan} has no private tensors: allowed is one of {len(variants)} submodels")
    index = list(variants).index(plan)
    blocks = {}
    for name, block in part.items():
        blocks[name] = block
        if _own(layout, layout.tensors[name], groups, plan):
            shape = block.local_shape
            blocks[name] = Block(source=_copy(index, name), shape=shape, runs=tuple(((0, size),) for size in shape))
    return Submodel(blocks, part.sizes)


def state_with_copies(
    state: Mapping[str, Tensor], layout: Layout, groups: Sequence[str], variants: Sequence[Plan]
) -> dict[str, Tensor]:
    """Turn the state of a network into one with copies: each begins as what its submodel would have held."""
    shared = {name: state[name] for name, tensor in layout.tensors.items() if tensor.role not in groups}
    own = {
        _copy(index, name): block.gather(state[name]).clone()
        for index, plan in enumerate(variants if groups else ())
        for name, block in cut(layout, plan).items()
        if _own(layout, layout.tensors[name], groups, plan)
    }
    return {**shared, **own}


def _own(layout: Layout, tensor: TensorLayout, groups: Sequence[str], plan: Plan) -> bool:
    shallow = plan.depth is not None and plan.depth < layout.depth
    return tensor.role in groups or ("stage" in groups and shallow and tensor.stage == plan.depth)


def _copy(index: int, name: str) -> str:
    return f"private.{index}.{name}"
