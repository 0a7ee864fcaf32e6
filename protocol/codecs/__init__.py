"""Codecs: how a client's flat difference crosses the wire, and what that costs.

    codec = codec_of(CodecSettings("qsgd", levels=7))
    array = codec.encode(flat, sizes, draws, memory)       # on the client
    decoded = codec.decode(array, sizes, memory)           # on the server

Everything but float32 is one frame (`frame`): version, kind, sizes and checksum are checked against what the plan
implies before anything is allocated, and a frame that is not exactly right is refused with `WireError`.
"""

from __future__ import annotations

from typing import cast

from protocol.arrays import WireError
from protocol.codecs.base import NO_DRAWS, NOTHING, Codec, Decoded, Remembering, checksum
from protocol.codecs.eden import Eden
from protocol.codecs.ef21 import EF21
from protocol.codecs.memory import OfPart
from protocol.codecs.plain import Half, Plain
from protocol.codecs.qsgd import Quantised
from protocol.codecs.settings import CODECS, CodecSettings
from protocol.codecs.topk import TopK

__all__ = [
    "CODECS",
    "NOTHING",
    "NO_DRAWS",
    "Codec",
    "CodecSettings",
    "Decoded",
    "OfPart",
    "Remembering",
    "checksum",
    "codec_from",
    "codec_of",
]

_BUILT_IN: dict[str, type[Codec]] = {
    "float32": Plain,
    "float16": Half,
    "bfloat16": Half,
    "qsgd": Quantised,
    "topk": TopK,
    "ef21": EF21,
    "eden": Eden,
}
for _name, _class in _BUILT_IN.items():
    CODECS[_name] = _class


def codec_of(settings: CodecSettings) -> Codec:
    """The codec of these settings."""
    kind = cast(type[Codec], CODECS[settings.name])
    return kind(settings)


_read: dict[str, Codec] = {}  # texts of built-in codecs, which keep nothing themselves
_KEPT, _SHORT = 16, 500  # texts that are kept, and characters of one


def codec_from(text: str) -> Codec:
    """The codec that a request asks for.

    Raises:
        WireError: this end does not speak it.
    """
    if text in _read:
        return _read[text]
    try:
        codec = codec_of(CodecSettings.from_text(text))
    except (ValueError, TypeError) as error:
        raise WireError(f"codec {text[:200]!r}: this client knows {', '.join(CODECS.names())} ({error})") from None
    if codec.settings.name in _BUILT_IN and len(text) <= _SHORT and len(_read) < _KEPT:
        _read[text] = codec
    return codec
