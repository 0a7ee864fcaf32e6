"""Codecs on a difference of ResNet-18's size: speed on one core, bytes against entropy, error against bits.

The difference has the sizes of the network's tensors and, in each, normal coordinates of a spread of its own. Speed is
in CPU seconds of one thread, which is what a core has to do whatever else runs on it, against those that the same
float32 bytes take at 200 MB/s, or for `eden` at 400. Errors are ‖Q(x) - x‖²/‖x‖², against the bound min(B/s², √B/s) for
blocks of B, and for `eden` against the quantiser's at its defaults.
"""

from __future__ import annotations

from functools import partial
from math import prod, sqrt

import torch
from flwr.app import Array
from torch import Tensor

from benchmarks.bench.rows import Row, row_of_turns
from benchmarks.bench.shapes import RESNET_18
from benchmarks.clock import cpu_seconds
from benchmarks.document import Say
from models.device import threads
from models.networks.build import layout
from models.networks.spec import NetworkSpec
from models.randomness import generator, torch_generator
from protocol.codecs import NOTHING, Codec, CodecSettings, codec_of
from protocol.codecs.frame import HEADER

NAME = "codecs"
_RATE = 200  # MB of float32 a second
_BLOCK = 512
_CASES = {
    "qsgd s=7": CodecSettings("qsgd"),
    "qsgd s=7, Elias": CodecSettings("qsgd", entropy="elias"),
    "qsgd s=7, range": CodecSettings("qsgd", entropy="range"),
    "float16": CodecSettings("float16"),
    "top 1 %": CodecSettings("topk"),
    "EF21, 1 %": CodecSettings("ef21"),
}
_EDEN, _EDEN_RATE = CodecSettings("eden"), 400


def codecs(say: Say = print, spec: NetworkSpec = RESNET_18, turns: int = 7) -> list[Row]:
    """Measure the codecs, with one thread.

    Args:
        say: takes progress.
        spec: the network whose difference is encoded.
        turns: of each measurement of speed.
    """
    with threads(1):
        return _rows(say, spec, turns)


def _rows(say: Say, spec: NetworkSpec, turns: int) -> list[Row]:
    sizes, flat = _difference(spec)
    rows = []
    for name, settings in {**_CASES, "eden": _EDEN}.items():
        say(f"codecs: {name}")
        codec, limit = codec_of(settings), 1.0 if name in ("qsgd s=7", "eden") else None
        rate = _EDEN_RATE if name == "eden" else _RATE
        wanted = 4 * len(flat) / (1e6 * rate)
        array = _encode(codec, flat, sizes)
        pairs = [(cpu_seconds(partial(_encode, codec, flat, sizes)), wanted) for _ in range(turns)]
        rows.append(_speed(f"encode {name}, {len(flat):,} coordinates / at {rate} MB/s", pairs, limit))
        pairs = [(cpu_seconds(partial(codec.decode, array, sizes, NOTHING)), wanted) for _ in range(turns)]
        rows.append(_speed(f"decode {name} / at {rate} MB/s", pairs, limit))
    rows += [_entropy(flat, sizes), *_eden(flat, sizes)]
    return rows + [_error(flat, sizes, levels) for levels in (1, 3, 7, 15, 127)]


def _difference(spec: NetworkSpec) -> tuple[list[int], Tensor]:
    draws = torch_generator(1, 0, "server", "benchmark")
    sizes = [prod(tensor.shape) for tensor in layout(spec).tensors.values()]
    spread = [torch.full((size,), 10.0 ** float(torch.randn((), generator=draws) - 3)) for size in sizes]
    return sizes, torch.randn(sum(sizes), generator=draws) * torch.cat(spread)


def _encode(codec: Codec, flat: Tensor, sizes: list[int]) -> Array:
    return codec.encode(flat, sizes, generator(1, 1, 0, "codec"), NOTHING)


def _speed(what: str, pairs: list[tuple[float, float]], limit: float | None) -> Row:
    return row_of_turns(NAME, what, pairs, unit="ms", scale=1e3, limit=limit)


def _entropy(flat: Tensor, sizes: list[int]) -> Row:
    codec = codec_of(_CASES["qsgd s=7, range"])
    array = _encode(codec, flat, sizes)
    ideal = codec.decode(array, sizes, NOTHING).entropy_bytes + HEADER
    measured = len(array.data)
    what = "bytes of qsgd s=7 with range coding / entropy of levels, norms, small tensors and header"
    note = f"{8 * measured / len(flat):.3f} bits a coordinate; the table of counts is not part of the reference"
    return Row(
        benchmark=NAME,
        what=what,
        measured=measured,
        reference=ideal,
        unit="B",
        ratio=measured / ideal,
        limit=1.02,
        note=note,
    )


def _eden(flat: Tensor, sizes: list[int]) -> list[Row]:
    """Bytes and error against the default quantiser's, range-coded."""
    ends = {}
    for settings in (_EDEN, _CASES["qsgd s=7, range"]):
        codec = codec_of(settings)
        array = _encode(codec, flat, sizes)
        got = codec.decode(array, sizes, NOTHING).flat
        error = float((got - flat).double().square().sum() / flat.double().square().sum())
        ends[settings.name] = len(array.data), error
    (few, error), (many, other) = ends["eden"], ends["qsgd"]
    note = f"{8 * few / len(flat):.3f} bits a coordinate in all"
    rows = [("bytes", few, many, "B", 0.503, note), ("error", error, other, "", 1.0, "")]
    return [
        Row(
            benchmark=NAME,
            what=f"{what} of eden / of qsgd s=7 with range coding",
            measured=measured,
            reference=reference,
            unit=unit,
            ratio=measured / reference,
            limit=limit,
            note=note,
        )
        for what, measured, reference, unit, limit, note in rows
    ]


def _error(flat: Tensor, sizes: list[int], levels: int) -> Row:
    bits = {}
    for entropy in ("fixed", "range"):
        codec = codec_of(CodecSettings("qsgd", levels=levels, block=_BLOCK, entropy=entropy))
        array = _encode(codec, flat, sizes)
        bits[entropy] = 8 * len(array.data) / len(flat)
        got = codec.decode(array, sizes, NOTHING).flat
    error = float((got - flat).double().square().sum() / flat.double().square().sum())
    bound = min(_BLOCK / levels**2, sqrt(_BLOCK) / levels)
    note = f"{bits['fixed']:.2f} bits a coordinate at fixed width, {bits['range']:.2f} with range coding"
    return Row(
        benchmark=NAME,
        what=f"error of qsgd s={levels} / bound",
        measured=error,
        reference=bound,
        unit="",
        ratio=error / bound,
        limit=1.0,
        note=note,
    )
