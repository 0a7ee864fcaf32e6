"""Layers: linear, convolutions, matrix products, embeddings."""

from __future__ import annotations

from string import ascii_letters

from models.foreign.atoms import Extent, extent, freeze, multiply, size_of, unify
from models.foreign.rules.table import Call, Dims, NotUnderstood, Value, broadcast, freeze_all, rule


@rule("linear")
def linear(call: Call) -> Value:
    """(..., in) x (out, in) → (..., out)."""
    inputs, weight, bias = call.dims("input"), call.dims("weight"), call.maybe("bias")
    unify(inputs[-1], weight[1])
    multiply(weight[1])
    if bias:
        unify(weight[0], bias[0])
    return [*inputs[:-1], weight[0]]


@rule("conv1d", "conv2d", "conv3d")
def convolution(call: Call) -> Value:
    """(N, groups x in, ...) x (groups x out, in, ...) → (N, groups x out, ...)."""
    inputs, weight, bias = call.dims("input"), call.dims("weight"), call.maybe("bias")
    if len(inputs) != len(weight):
        raise NotUnderstood("a convolution without a batch")
    freeze_all(weight[2:], "a kernel's side")
    _grouped(call, inputs[1], weight[1], weight[0])
    if bias:
        unify(weight[0], bias[0])
    return [inputs[0], weight[0], *(extent(size, "positions") for size in call.shape[2:])]


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed_convolution(call: Call) -> Value:
    """(N, groups x in, ...) x (groups x in, out, ...) → (N, groups x out, ...)."""
    inputs, weight, bias = call.dims("input"), call.dims("weight"), call.maybe("bias")
    freeze_all(weight[2:], "a kernel's side")
    unify(inputs[1], weight[0])
    multiply(weight[0])
    outputs = weight[1]
    if (groups := int(call["groups"])) > 1:
        several = extent(groups)
        unify(weight[0], (*several, *extent(size_of(weight[0]) // groups)))
        multiply(several)
        call.count("groups", [several])
        outputs = (*several, *weight[1])
    if bias:
        unify(outputs, bias[0])
    return [inputs[0], outputs, *(extent(size, "positions") for size in call.shape[2:])]


def _grouped(call: Call, inputs: Extent, own_inputs: Extent, outputs: Extent) -> None:
    groups = int(call["groups"])
    multiply(own_inputs)
    if groups == 1:
        unify(inputs, own_inputs)
        return
    several, own_outputs = extent(groups), extent(size_of(outputs) // groups)
    unify(inputs, (*several, *own_inputs))
    if not own_inputs:
        freeze(own_outputs, "several outputs of every channel of a depthwise convolution")
    unify(outputs, (*several, *own_outputs))
    multiply(several)
    call.count("groups", [several])


@rule("matmul", "bmm", "mm")
def product(call: Call) -> Value:
    """(..., n, k) x (..., k, m) → (..., n, m)."""
    left, right = call.dims("self"), call.dims("mat2" if call.has("mat2") else "other")
    inner = right[-2] if len(right) > 1 else right[0]
    unify(left[-1], inner)
    multiply(inner)
    if len(right) == 1:
        return left[:-1]
    if len(left) == 1:
        return [*right[:-2], right[-1]]
    batch = broadcast([left[:-2], right[:-2]])
    for dim in batch:
        multiply(dim)
    return [*batch, left[-2], right[-1]]


@rule("addmm", "baddbmm")
def sum_and_product(call: Call) -> Value:
    """A bias and a matrix product, as in GPT-2's layers."""
    added = call.dims("self")
    left, right = (call.dims(call.node.args[1]), call.dims(call.node.args[2]))  # type: ignore[arg-type]
    unify(left[-1], right[-2])
    multiply(left[-1])
    return broadcast([[*left[:-1], right[-1]], added])


@rule("einsum")
def einsum(call: Call) -> Value:
    """Letters that are the same are the same dimension; what is summed over is multiplied."""
    equation, operands = str(call["equation"]).replace(" ", ""), call.several("tensors")
    left, _, right = equation.partition("->")
    terms = left.split(",")
    letters: dict[str, Extent] = {}
    counted = [letter for letter in left if letter in ascii_letters]
    if not _ or "." in equation:
        raise NotUnderstood("an equation without arrow or with dots")
    for term, dims in zip(terms, operands, strict=True):
        if len(set(term)) < len(term):
            raise NotUnderstood("a diagonal")
        for letter, dim in zip(term, dims, strict=True):
            if letters.get(letter):
                unify(letters[letter], dim)
            else:
                letters[letter] = dim
    for letter, dim in letters.items():
        if letter not in right or counted.count(letter) > 1:
            multiply(dim)
    return [letters[letter] for letter in right]


@rule("embedding")
def embedding(call: Call) -> Value:
    """(rows, features) and indices → (indices..., features)."""
    weight = call.dims("weight")
    freeze(weight[0], "rows of an embedding")
    return [*call.dims("indices"), weight[1]]


@rule("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(call: Call) -> Value:
    """Sums or means of rows: (bags, features), and three tensors of integers."""
    weight = call.dims("weight")
    freeze(weight[0], "rows of an embedding")
    values = call.node.meta["val"]
    rest: list[Dims] = [[extent(int(n), "integers") for n in value.shape] for value in values[1:]]
    return [[extent(int(values[0].shape[0]), "bags"), weight[1]], *rest]
