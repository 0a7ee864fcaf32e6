"""Recurrent layers and their cells: the rows of a weight are gates x units."""

from __future__ import annotations

from collections.abc import Sequence

from models.foreign.atoms import Extent, extent, multiply, size_of, unify
from models.foreign.rules.table import Call, Dims, NotUnderstood, Value, rule

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@rule(*_GATES)
def layers(call: Call) -> Value:
    """Input (..., features) → (..., directions x units), and the last states."""
    if not call.has("has_biases") or not call.has("input"):
        raise NotUnderstood("a packed sequence")
    inputs, gates = call.dims("input"), _GATES[call.name]
    states = call.several("hx") if call.name == "lstm" else [call.dims("hx")]
    weights = call.several("params")
    per, directions = 4 if call["has_biases"] else 2, 2 if call["bidirectional"] else 1
    units = weights[1][1]
    if len(weights) != int(call["num_layers"]) * directions * per:
        raise NotUnderstood("a projection")
    for state in states:
        unify(state[-1], units)
    both = (*extent(directions, "directions"), *units)
    enters = inputs[-1]
    for layer in range(int(call["num_layers"])):
        for direction in range(directions):
            start = (layer * directions + direction) * per
            _cell(weights[start : start + per], gates, enters, units)
        enters = both
    return [[*inputs[:-1], both], *states]


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def cell(call: Call) -> Value:
    """One step."""
    gates = _GATES[call.name.removesuffix("_cell")]
    states = call.several("hx") if call.name == "lstm_cell" else [call.dims("hx")]
    weights = [dims for name in ("w_ih", "w_hh", "b_ih", "b_hh") if (dims := call.maybe(name))]
    units = weights[1][1]
    for state in states:
        unify(state[-1], units)
    _cell(weights, gates, call.dims("input")[-1], units)
    return [*states] if call.name == "lstm_cell" else states[0]


def _cell(weights: Sequence[Dims], gates: int, inputs: Extent, units: Extent) -> None:
    for weight in weights:
        unify(weight[0], (*extent(gates, "gates"), *units))
    unify(weights[0][1], inputs)
    unify(weights[1][1], units)
    assert size_of(units) * gates == size_of(weights[0][0])
    multiply(inputs)
    multiply(units)
