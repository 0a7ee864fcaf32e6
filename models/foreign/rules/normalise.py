"""Normalisation."""

from __future__ import annotations

from models.foreign.atoms import extent, freeze, multiply, size_of, unify
from models.foreign.rules.table import Call, Value, rule


@rule("batch_norm", "instance_norm")
def per_channel(call: Call) -> Value:
    """Per channel; in evaluation by running statistics."""
    dims = call.dims("input")
    for name in ("weight", "bias", "running_mean", "running_var"):
        if own := call.maybe(name):
            unify(dims[1], own[0])
    return dims


@rule("layer_norm", "rms_norm")
def over_features(call: Call) -> Value:
    """Over the last dimensions; in a part, over what is kept of them."""
    dims, count = call.dims("input"), len(call["normalized_shape"])
    for name in ("weight", "bias"):
        if call.has(name) and (own := call.maybe(name)):
            for dim, along in zip(dims[-count:], own, strict=True):
                unify(dim, along)
    call.over(dims, range(-count, 0))
    call.count("normalized_shape", [[dim] for dim in dims[-count:]])
    return dims


@rule("group_norm")
def over_groups(call: Call) -> Value:
    """Over the channels of a group, so whole groups are the units."""
    dims = call.dims("input")
    for name in ("weight", "bias"):
        if own := call.maybe(name):
            unify(dims[1], own[0])
    groups = int(call["num_groups"])
    several, channels = extent(groups), extent(size_of(dims[1]) // groups, "channels that a group norm runs over")
    unify(dims[1], (*several, *channels))
    freeze(channels, "channels that a group norm runs over")
    multiply(several)
    call.count("num_groups", [several])
    return dims


@rule("_weight_norm", "weight_norm")
def weights(call: Call) -> Value:
    """A weight as direction and length: the length along one dimension, over all others."""
    direction, length, dim = call.dims("v"), call.dims("g"), int(call["dim"])
    unify(direction[dim], length[dim])
    call.over(direction, [place for place in range(len(direction)) if place != dim % len(direction)])
    return direction
