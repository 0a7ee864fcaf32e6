"""Operations that meet coordinate by coordinate, tensors that are made anew, and sums and means over dimensions."""

from __future__ import annotations

from torch import fx

from models.foreign.atoms import extent, freeze, multiply
from models.foreign.rules.table import Call, Dims, NotUnderstood, Value, broadcast, rule

ONE = """abs alias alpha_dropout bernoulli bernoulli_ bitwise_not celu clamp clamp_ clamp_max clamp_min clone
    contiguous cos detach detach_ dropout dropout_ elu elu_ erf exp expm1 feature_dropout fill fill_ floor
    gelu hardshrink hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_ isinf isnan
    leaky_relu leaky_relu_ lift_fresh_copy log log1p log_sigmoid logical_not mish mish_ nan_to_num neg
    reciprocal relu relu6 relu_ round rsqrt selu selu_ sigmoid sigmoid_ sign silu silu_ sin softplus
    softshrink softsign sqrt square tan tanh tanh_ threshold to type_as uniform_ _to_copy zero_"""
_SEVERAL = """__and__ __or__ add add_ addcdiv addcmul bitwise_and bitwise_or div div_ eq fmod ge gt le lerp logical_and
    logical_or lt masked_fill masked_fill_ maximum minimum mul mul_ ne pow prelu_ remainder rsub sub sub_ where"""


@rule(*ONE.split(), *_SEVERAL.split())
def elementwise(call: Call) -> Value:
    """Every operand that is a tensor has the result's dimensions, or is repeated along them."""
    operands = [call.maybe(node) for node in call.node.all_input_nodes]
    return broadcast([dims for dims in operands if dims is not None])


@rule("prelu")
def prelu(call: Call) -> Value:
    """One slope for all channels, or one for each."""
    dims, slopes = call.dims("self"), call.dims("weight")
    if slopes and slopes[0]:
        broadcast([[dims[1]], slopes])
    return dims


@rule("zeros", "ones", "full", "empty", "rand", "randn", "new_zeros", "new_ones", "new_full", "new_empty")
def made(call: Call) -> Value:
    """A tensor whose coordinates are all alike may be as long as is needed."""
    dims = [extent(size) for size in call.shape]
    call.count("size", [[dim] for dim in dims])
    return dims


@rule("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like")
def made_like(call: Call) -> Value:
    """A new tensor of the shape of another one."""
    return list(call.dims("self"))


@rule("arange", "linspace", "scalar_tensor")
def positions(call: Call) -> Value:
    """Numbers in a row."""
    return [extent(size, "positions in a row") for size in call.shape]


@rule(
    "mean", "sum", "amax", "amin", "max", "min", "var", "std", "linalg_vector_norm", "norm", "any", "all", "logsumexp"
)
def reduced(call: Call) -> Value:
    """Over whole dimensions; in a part, over what is kept of them."""
    if call.has("other"):
        return elementwise(call)
    dims = call.dims("self") if call.has("self") else call.dims("x")
    if call.name in ("max", "min") and call.has("dim"):
        raise NotUnderstood("the place of the largest")
    given = call["dim"] if call.has("dim") else None
    given = [given] if isinstance(given, int) else given
    places = [place % len(dims) for place in given] if given else list(range(len(dims)))
    call.over(dims, places)
    keep = call.has("keepdim") and call["keepdim"]
    out: Dims = []
    for place, dim in enumerate(dims):
        if place not in places:
            out.append(dim)
        elif keep:
            out.append(())
    return out


@rule("softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum")
def over_all(call: Call) -> Value:
    """What stands in a row shares what there is, or is added up in order: without some of it the rest would change."""
    dims, place = call.dims("self"), call["dim"]
    freeze(dims[place], f"{call.name} runs over it")
    multiply(dims[place])
    return dims


@rule("diff", "gather", "argmax", "argmin", "searchsorted", "bucketize", "one_hot")
def integers(call: Call) -> Value:
    """Indices and counts that are computed of indices, as masks are."""
    value = call.node.meta["val"]
    if value.is_floating_point() or any(_floating(node) for node in call.node.all_input_nodes):
        raise NotUnderstood("picks floating-point values")
    return [extent(size, "integers") for size in call.shape]


def _floating(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return bool(getattr(value, "is_floating_point", lambda: False)())
