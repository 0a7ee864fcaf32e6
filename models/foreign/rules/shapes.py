"""Operations that move coordinates: views, permutations, pieces, concatenations, pools."""

from __future__ import annotations

from models.foreign.atoms import Extent, cut, extent, freeze, joined, regrouped, size_of, unify
from models.foreign.rules.table import Call, Dims, NotUnderstood, Value, broadcast, rule, shape_of


@rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as")
def viewed(call: Call) -> Value:
    """The same coordinates in other groups."""
    dims = call.dims("self")
    out = regrouped(dims, call.shape)
    if call.name == "unflatten":
        place, sizes = call["dim"] % len(dims), call["sizes"]
        call.count("sizes", [[dim] for dim in out[place : place + len(sizes)]])
    elif call.has("size") or call.has("shape"):
        call.count("size" if call.has("size") else "shape", [[dim] for dim in out])
    return out


@rule("permute")
def permuted(call: Call) -> Value:
    """Dimensions in another order."""
    dims = call.dims("self")
    return [dims[place] for place in call["dims"]]


@rule("transpose", "swapaxes")
def transposed(call: Call) -> Value:
    """Two dimensions change places."""
    dims = list(call.dims("self"))
    names = ("dim0", "dim1") if call.has("dim0") else ("axis0", "axis1")
    one, other = (call[name] for name in names)
    dims[one], dims[other] = dims[other], dims[one]
    return dims


@rule("t", "numpy_T", "mT")
def turned(call: Call) -> Value:
    """A matrix transposed."""
    return call.dims("self")[::-1]


@rule("unsqueeze")
def unsqueezed(call: Call) -> Value:
    """A dimension of one coordinate more."""
    dims = call.dims("self")
    place = call["dim"] % (len(dims) + 1)
    return [*dims[:place], (), *dims[place:]]


@rule("squeeze")
def squeezed(call: Call) -> Value:
    """Without dimensions of one coordinate."""
    dims = call.dims("self")
    given = call["dim"] if call.has("dim") else range(len(dims))
    places = [place % len(dims) for place in ([given] if isinstance(given, int) else given)]
    return [dim for place, dim in enumerate(dims) if place not in places or size_of(dim) > 1]


@rule("expand", "expand_as")
def expanded(call: Call) -> Value:
    """Dimensions of one coordinate repeated."""
    dims, shape = call.dims("self"), call.shape
    padded: Dims = [*[()] * (len(shape) - len(dims)), *dims]
    out = [dim if size_of(dim) == size else extent(size) for dim, size in zip(padded, shape, strict=True)]
    if call.has("other"):
        unified = call.dims("other")
        return broadcast([out, unified])
    call.count("size", [[dim] for dim in out])
    return out


@rule("repeat")
def repeated(call: Call) -> Value:
    """Dimensions several times in a row."""
    dims, times = call.dims("self"), call["repeats"]
    padded: Dims = [*[()] * (len(times) - len(dims)), *dims]
    if not all(isinstance(n, int) for n in times):
        if any(isinstance(n, int) and n > 1 for n in times):
            raise NotUnderstood("repeated as often as there are examples, and more")
        return [
            dim if size_of(dim) == size else extent(size, "input") for dim, size in zip(padded, call.shape, strict=True)
        ]
    return [(*extent(n, "repetitions"), *dim) for n, dim in zip(times, padded, strict=True)]


@rule("select")
def selected(call: Call) -> Value:
    """One coordinate."""
    dims = call.dims("self")
    place = call["dim"] % len(dims)
    freeze(dims[place], "single coordinates of it are picked")
    return [*dims[:place], *dims[place + 1 :]]


@rule("unbind")
def unbound(call: Call) -> Value:
    """Every coordinate by itself."""
    dims = call.dims("self")
    place = call["dim"] % len(dims)
    freeze(dims[place], "single coordinates of it are picked")
    return [[*dims[:place], *dims[place + 1 :]] for _ in range(size_of(dims[place]))]


@rule("slice")
def sliced(call: Call) -> Value:
    """A run of coordinates."""
    dims = call.dims("self")
    place = call["dim"] % len(dims)
    size = size_of(dims[place])
    bounds = (call["start"] or 0, size if call["end"] is None else call["end"])
    if not all(isinstance(bound, int) for bound in bounds):
        raise NotUnderstood("as many as there are examples")
    start, end = (min(max(bound + size if bound < 0 else bound, 0), size) for bound in bounds)
    if call["step"] != 1:
        freeze(dims[place], "taken in steps")
        return [*dims[:place], extent(call.shape[place], "taken in steps"), *dims[place + 1 :]]
    if (start, end) == (0, size):
        return dims
    if start >= end:  # nothing is taken
        if start == size:
            call.count("start", [dims[place]])
        else:
            freeze(dims[place], "nothing is taken from its middle")
        return [*dims[:place], extent(0, "nothing"), *dims[place + 1 :]]
    pieces = cut(dims[place], [length for length in (start, end - start, size - end) if length])
    before = pieces[:1] if start else []
    call.count("start", before)
    call.count("end", [*before, pieces[len(before)]])
    return [*dims[:place], pieces[len(before)], *dims[place + 1 :]]


@rule("chunk", "split", "split_with_sizes", "tensor_split")
def split(call: Call) -> Value:
    """Consecutive pieces."""
    dims = call.dims("self")
    place = call["dim"] % len(dims)
    pieces = cut(dims[place], [shape_of(value)[place] for value in call.node.meta["val"]])
    call.counts.pieces = (place, pieces)
    return [[*dims[:place], piece, *dims[place + 1 :]] for piece in pieces]


@rule("glu")
def gated(call: Call) -> Value:
    """The first half times a gate, which is the second."""
    dims = call.dims("self")
    place = call["dim"] % len(dims)
    first, gate = cut(dims[place], [size_of(dims[place]) // 2] * 2)
    unify(first, gate)
    return [*dims[:place], first, *dims[place + 1 :]]


@rule("cat", "concat", "concatenate")
def concatenated(call: Call) -> Value:
    """Side by side along one dimension."""
    several = call.several("tensors")
    place = call["dim"] % max(map(len, several))
    several = [dims for dims in several if len(dims) > place and size_of(dims[place])]
    others = broadcast([[() if i == place else dim for i, dim in enumerate(dims)] for dims in several])
    return [joined([dims[place] for dims in several]) if i == place else dim for i, dim in enumerate(others)]


@rule("stack")
def stacked(call: Call) -> Value:
    """Side by side along a new dimension."""
    several = call.several("tensors")
    out = broadcast(several)
    place = call["dim"] % (len(out) + 1)
    return [*out[:place], extent(len(several), "stacked"), *out[place:]]


@rule("roll", "flip")
def turned_round(call: Call) -> Value:
    """In another order, which must then not change."""
    dims = call.dims("self")
    for place in call["dims"] or range(len(dims)):
        freeze(dims[place], "its order matters")
    return dims


@rule("index")
def indexed(call: Call) -> Value:
    """Rows by their numbers, as tables of positions are read."""
    dims, indices = call.dims("self"), call["indices"]
    places = [place for place, index in enumerate(indices) if index is not None]
    for place in places:
        freeze(dims[place], "it is indexed")
    found = broadcast([call.dims(indices[place]) for place in places])
    rest: Dims = [dim for place, dim in enumerate(dims) if place not in places]
    at = places[0] if places == list(range(places[0], places[-1] + 1)) else 0
    return [*rest[:at], *found, *rest[at:]]


@rule("index_select")
def picked(call: Call) -> Value:
    """Rows by their numbers."""
    dims = call.dims("self")
    place = call["dim"] % len(dims)
    freeze(dims[place], "it is indexed")
    return [*dims[:place], extent(call.shape[place], "it is indexed"), *dims[place + 1 :]]


def _spatial(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}{n}d" for name in names for n in (1, 2, 3))


@rule(*_spatial("avg_pool", "max_pool", "adaptive_avg_pool", "adaptive_max_pool", "lp_pool"))
def pooled(call: Call) -> Value:
    """Fewer positions per channel."""
    dims, count = call.dims("self" if call.has("self") else "input"), int(call.name[-2])
    return [*dims[:-count], *_positions(dims[-count:], call.shape[-count:])]


@rule(*(f"max_pool{n}d_with_indices" for n in (1, 2, 3)))
def pooled_with_indices(call: Call) -> Value:
    """Fewer positions, and where they come from."""
    dims, shape = call.dims("self"), shape_of(call.node.meta["val"][0])
    count = int(call.name.partition("d")[0][-1])
    out = [*dims[:-count], *_positions(dims[-count:], shape[-count:])]
    return [out, out]


@rule(*_spatial("upsample_nearest"), "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d")
def interpolated(call: Call) -> Value:
    """More or fewer positions per channel."""
    dims = call.dims("input" if call.has("input") else "self")
    return [*dims[:2], *_positions(dims[2:], call.shape[2:])]


def _positions(dims: Dims, sizes: tuple[int, ...]) -> Dims:
    for dim in dims:
        freeze(dim, "positions")
    return [dim if size_of(dim) == size else extent(size, "positions") for dim, size in zip(dims, sizes, strict=True)]


@rule("pad", "constant_pad_nd", "reflection_pad2d", "replication_pad2d")
def padded(call: Call) -> Value:
    """More coordinates at the ends."""
    dims, added = list(call.dims("self")), call["pad" if call.has("pad") else "padding"]
    for i in range(len(added) // 2):
        if added[2 * i] or added[2 * i + 1]:
            freeze(dims[-1 - i], "it is padded")
            dims[-1 - i] = extent(call.shape[-1 - i], "it is padded")
    return dims


@rule("pixel_shuffle")
def pixels_shuffled(call: Call) -> Value:
    """(N, channels x r x r, height, width) → (N, channels, r height, r width)."""
    dims, times = call.dims("self"), int(call["upscale_factor"]) ** 2
    channels: Extent = extent(call.shape[-3])
    unify(dims[-3], (*channels, *extent(times, "pixels that channels become")))
    return [*dims[:-3], channels, *(extent(size, "positions") for size in call.shape[-2:])]


@rule("channel_shuffle")
def channels_shuffled(call: Call) -> Value:
    """(N, groups x channels, ...) → (N, channels x groups, ...)."""
    dims, groups = call.dims("self"), int(call["groups"])
    several, channels = extent(groups), extent(size_of(dims[1]) // groups)
    unify(dims[1], (*several, *channels))
    freeze(several, "groups that are shuffled")
    return [dims[0], (*channels, *several), *dims[2:]]


@rule("tril", "triu")
def triangle(call: Call) -> Value:
    """Half of a matrix."""
    dims = call.dims("self")
    for dim in dims[-2:]:
        freeze(dim, "its order matters")
    return dims


@rule("im2col")
def unfolded(call: Call) -> Value:
    """(N, channels, ...) → (N, channels x kernel, positions)."""
    dims, shape = call.dims("input" if call.has("input") else "self"), call.shape
    if len(dims) != len(shape) + 1:
        raise NotUnderstood("patches without a batch")
    kernel = shape[1] // size_of(dims[1])
    return [dims[0], (*dims[1], *extent(kernel, "a kernel's side")), extent(shape[2], "positions")]
