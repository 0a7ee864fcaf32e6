"""Attention in one operation."""

from __future__ import annotations

from models.foreign.atoms import extent, freeze, multiply, size_of, unify
from models.foreign.rules.table import Call, Value, broadcast, rule


@rule("scaled_dot_product_attention")
def attention(call: Call) -> Value:
    """(..., heads, queries, d), (..., heads, keys, d), (..., heads, keys, e) → (..., heads, queries, e).

    Whole heads are units; d is not, because the products are scaled by its size. With fewer heads of keys than of
    queries, every one of the former serves a run of the latter.
    """
    query, key, value = call.dims("query"), call.dims("key"), call.dims("value")
    unify(query[-1], key[-1])
    unify(key[-2], value[-2])
    freeze(query[-1], "coordinates of a head, whose number attention is scaled by")
    multiply(value[-1])
    heads = broadcast([key[:-2], value[:-2]])
    if heads and (times := size_of(query[-3]) // size_of(heads[-1])) > 1 and size_of(heads[-1]) > 1:
        unify(query[-3], (*heads[-1], *extent(times)))
        batch = [*broadcast([query[:-3], heads[:-1]]), query[-3]]
    else:
        batch = broadcast([query[:-2], heads])
    for dim in batch:
        multiply(dim)
    if mask := call.maybe("attn_mask"):
        broadcast([[*batch, query[-2], key[-2]], mask])
    return [*batch, query[-2], value[-1]]
