"""What a codec can be told, as the run configuration says it and as it crosses the wire."""

from __future__ import annotations

import json
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Protocol

from models.errors import SettingError
from models.registry import Registry
from models.settings import ELSEWHERE, Names, between, declared, more_than, setting

NORMS = ("l2", "max")
SCALES = ("whole", "tensor", "block")
ENTROPIES = ("fixed", "elias", "range")
LEAST_BITS, MOST_BITS = 0.05, 1.5  # of a coordinate, where a rotation comes before
MOST_LEVELS = 2**22  # a float32 norm has no more digits to divide
MOST_LEVELS_RANGE = 2**12  # range coding sends a count for each of the 2s + 1 symbols

QUANTISER = ("levels", "norm", "scale", "block", "entropy", "small")
SPARSE = ("share", "small")
ROTATED = ("bits", "small")
_QSGD = "codec = qsgd"
_FOREIGN = 2**16 - 1  # kind in the frames of codecs that are not built in; what tells them apart is their settings


class CodecClass(Protocol):
    """What settings have to know of a codec: see `protocol.codecs.base.Codec`, which all codecs are subclasses of."""

    SETTINGS: ClassVar[tuple[str, ...]]
    LOSSY: ClassVar[bool]
    NOISY: ClassVar[bool]


def _codec(found: object) -> type[CodecClass] | None:
    names = [*CodecClass.__annotations__, "encode", "decode"]
    return found if isinstance(found, type) and all(hasattr(found, name) for name in names) else None


# Filled in `protocol.codecs`; the order gives the frames their kind, so new ones go to the end.
CODECS: Registry[type[CodecClass]] = Registry(
    "codec", group="flotilla.codecs", expected="a subclass of protocol.codecs.Codec", check=_codec
)


@dataclass(frozen=True, slots=True)
class CodecSettings:
    """How a difference is encoded. What a codec does not look at is checked all the same.

    Attributes:
        name: "float32", "float16", "bfloat16", "qsgd", "topk", "ef21", "eden", or an entry point or import path
            (`CODECS`).
        levels: s of the quantiser: magnitudes are 0 to s times norm / s.
        norm: "l2" (QSGD, FedPAQ) or "max".
        scale: what shares one norm: "whole" (all quantised tensors), "tensor", or "block".
        block: coordinates of a block; the last one of a tensor is shorter.
        entropy: how levels become bits: "fixed" (ceil(log2(s + 1)) + 1 each), "elias" (Elias gamma), "range".
        share: of the coordinates that top-k keeps, in (0, 1].
        bits: entropy of a coordinate's level under "eden".
        small: tensors of fewer coordinates than this cross the wire as float32.

    Raises:
        SettingError: a value that is not allowed.
    """

    name: str = setting(
        "float32",
        "the difference on the wire: `float32`, `float16`, `bfloat16`, `qsgd` (FedPAQ's quantiser), `topk` (with"
        " error feedback), `ef21` (top-k against a copy that the server keeps of every client, also in every"
        " checkpoint: at most 2 GiB together), `eden` (rotated and quantised below a bit a coordinate, unbiased)",
        Names(CODECS, ELSEWHERE),
        key="codec",
    )
    _: KW_ONLY
    levels: int = setting(
        7,
        "s of `qsgd`: magnitudes 0 to s, ceil(log2(s + 1)) + 1 bits a coordinate before entropy coding",
        between(1, MOST_LEVELS),
        key="codec-levels",
        read_by=_QSGD,
    )
    block: int = setting(
        512,
        "coordinates of a block of `qsgd`; its norm costs 32 bits",
        between(1, 2**31),
        key="codec-block",
        read_by=_QSGD,
    )
    entropy: str = setting(
        "fixed",
        "how `qsgd` writes levels: `fixed` width, `elias` (Elias gamma), `range` (range coding, at most 4096 levels)",
        Names(ENTROPIES),
        key="codec-entropy",
        read_by=_QSGD,
    )
    share: float = setting(
        0.01,
        "share of the coordinates that `topk` and `ef21` send",
        more_than(0, 1),
        key="codec-share",
        read_by="codec = topk, ef21",
    )
    bits: float = setting(
        0.52,
        "bits a coordinate of `eden`, for its levels; 0.52 has the error of `qsgd` at its defaults",
        between(LEAST_BITS, MOST_BITS),
        key="codec-bits",
        read_by="codec = eden",
    )
    norm: str = setting("l2", "of `qsgd`: `l2`, `max`", Names(NORMS), key="codec-norm", advanced=True, read_by=_QSGD)
    scale: str = setting(
        "block",
        "what shares one norm under `qsgd`: `whole` (all quantised tensors), `tensor`, `block`",
        Names(SCALES),
        key="codec-scale",
        advanced=True,
        read_by=_QSGD,
    )
    small: int = setting(
        1000,
        "tensors of fewer coordinates are sent as float32 by `qsgd`, `topk`, `ef21` and `eden`",
        between(0, 2**62),
        key="codec-small",
        advanced=True,
        read_by="codec = qsgd, topk, ef21, eden",
    )

    def __post_init__(self) -> None:
        for one in declared(CodecSettings):  # it may have come over the wire, so types are looked at as well
            one.setting.read(one.key, getattr(self, one.field))
        if self.entropy == "range" and self.levels > MOST_LEVELS_RANGE:
            raise SettingError("codec-levels", self.levels, f"1 to {MOST_LEVELS_RANGE} with codec-entropy = range")
        CODECS[self.name]  # or an error that says what there is

    @property
    def kind(self) -> int:
        """Number of the codec in its frames."""
        return list(CODECS).index(self.name) if self.name in list(CODECS) else _FOREIGN

    @property
    def lossy(self) -> bool:
        """Whether what arrives may be much longer or shorter than the difference; rounding to 16 bits hardly is."""
        return CODECS[self.name].LOSSY

    @property
    def noisy(self) -> bool:
        """Whether what arrives is the difference and noise of mean zero, which is each client's own."""
        return CODECS[self.name].NOISY

    def to_text(self) -> str:
        """One line for the wire: the name, and as JSON what this codec looks at besides."""
        looks_at = CODECS[self.name].SETTINGS
        if not looks_at:
            return self.name
        return json.dumps({"name": self.name} | {key: getattr(self, key) for key in looks_at})

    @staticmethod
    def from_text(text: str) -> CodecSettings:
        """Read what `to_text` wrote.

        Raises:
            ValueError: another codec, another setting, or a value that is not allowed.
        """
        fields = json.loads(text) if text.startswith("{") else {"name": text}
        name = str(fields.get("name"))
        looks_at = CODECS[name].SETTINGS
        if set(fields) != {"name", *looks_at}:
            raise ValueError(f"codec {name!r} has the settings {looks_at}, not {sorted(set(fields) - {'name'})}")
        return CodecSettings(**fields)
