"""Rules that are wrong: the proof finds every one of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from models.foreign.atoms import extent, joined, multiply, size_of, unify
from models.foreign.check import Proof, prove
from models.foreign.rules import RULES, Call, Dims, Value
from tests.models.foreign.traced import example, exported_once, found_in


def proved(net: str) -> Proof:
    return prove(exported_once(net)[0], found_in(net), example(net), torch.Generator().manual_seed(1))


def first_operand(call: Call) -> Value:
    return call.dims("self")


def channels_alone(call: Call) -> Value:
    return call.dims("input")


def unscaled(call: Call) -> Value:
    query, key, value = (call.dims(name) for name in ("query", "key", "value"))
    unify(query[-1], key[-1])
    multiply(query[-1])
    multiply(value[-1])
    return [*query[:-1], value[-1]]


def positions_outside(call: Call) -> Value:
    dims = call.dims("self")
    if call.name == "flatten" and len(dims) == 4:
        return [dims[0], (*dims[2], *dims[3], *dims[1])]
    return RIGHT[call.name](call)


def interleaved(call: Call) -> Value:
    dims = call.dims("self")
    half = extent(size_of(dims[-1]) // 2)
    unify(dims[-1], (*half, *extent(2, "halves")))
    call.counts.pieces = (len(dims) - 1, [half, half])
    return [[*dims[:-1], half], [*dims[:-1], half]]


def backwards(call: Call) -> Value:
    several = call.several("tensors")
    dims = list(RIGHT["cat"](call) or [])
    place = call["dim"] % len(dims)
    dims[place] = joined([one[place] for one in several][::-1])
    return dims  # type: ignore[return-value]


def channels_as_units(call: Call) -> Value:
    dims = call.dims("input")
    for name in ("weight", "bias"):
        unify(dims[1], call.dims(name)[0])
    return dims


def multiplied_outside(call: Call) -> Value:
    weight = call.dims("weight")
    if int(call["groups"]) == 1 or weight[1]:
        return RIGHT["conv2d"](call)
    inputs, times = call.dims("input"), size_of(weight[0]) // int(call["groups"])
    unify(weight[0], (*extent(times, "several outputs"), *inputs[1]))
    unify(weight[0], call.dims("bias")[0])
    call.count("groups", [inputs[1]])
    return [inputs[0], weight[0], *(extent(size, "positions") for size in call.shape[2:])]


def groups_apart(call: Call) -> Value:
    weight = call.dims("weight")
    if int(call["groups"]) == 1 or not weight[1]:
        return RIGHT["conv2d"](call)
    unify(weight[0], call.dims("bias")[0])
    multiply(weight[0])
    return [call.dims("input")[0], weight[0], *(extent(size, "positions") for size in call.shape[2:])]


def gates_inside(call: Call) -> Value:
    weights: list[Dims] = [call.dims(name) for name in ("w_ih", "w_hh", "b_ih", "b_hh")]
    units = weights[1][1]
    for state in call.several("hx"):
        unify(state[-1], units)
    for weight in weights:
        unify(weight[0], (*units, *extent(4, "gates")))
    unify(weights[0][1], call.dims("input")[-1])
    for dim in (units, weights[0][1]):
        multiply(dim)
    return [*call.several("hx")]


def letters_apart(call: Call) -> Value:
    for dims in call.several("tensors"):
        for dim in dims:
            multiply(dim)
    return [extent(size) for size in call.shape]


def direction_alone(call: Call) -> Value:
    return call.dims("v")


def weight_alone(call: Call) -> Value:
    inputs, weight = call.dims("input"), call.dims("weight")
    unify(inputs[-1], weight[1])
    multiply(weight[1])
    return [*inputs[:-1], weight[0]]


RIGHT = dict(RULES)
MUTANTS: list[tuple[str, str, Callable[[Call], Value]]] = [
    ("edge", "add", first_operand),
    ("edge", "mul", first_operand),
    ("edge", "batch_norm", channels_alone),
    ("edge", "flatten", positions_outside),
    ("edge", "conv2d", multiplied_outside),
    ("edge", "linear", weight_alone),
    ("attention", "chunk", interleaved),
    ("attention", "layer_norm", channels_alone),
    ("attention", "add", first_operand),
    ("joined", "cat", backwards),
    ("joined", "group_norm", channels_as_units),
    ("joined", "conv2d", groups_apart),
    ("steps", "lstm_cell", gates_inside),
    ("steps", "einsum", letters_apart),
    ("steps", "_weight_norm", direction_alone),
    ("head", "scaled_dot_product_attention", unscaled),
]


@pytest.mark.parametrize(("net", "operation", "wrong"), MUTANTS, ids=lambda one: getattr(one, "__name__", one))
def test_a_wrong_rule_is_found(
    monkeypatch: pytest.MonkeyPatch, net: str, operation: str, wrong: Callable[[Call], Value]
) -> None:
    monkeypatch.setitem(RULES, operation, wrong)
    try:
        proof = proved(net)
    except (RuntimeError, IndexError, AssertionError):  # a part that cannot even run
        return
    assert not proof.holds
