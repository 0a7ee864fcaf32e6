"""What a codec can be told, as the run configuration says it and as it crosses the wire."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Protocol

from models.errors import SettingError
from models.registry import Registry

NORMS = ("l2", "max")
SCALES = ("whole", "tensor", "block")
ENTROPIES = ("fixed", "elias", "range")
MOST_LEVELS = 2**22  # a float32 norm has no more digits to divide
MOST_LEVELS_RANGE = 2**12  # range coding sends a count for each of the 2s + 1 symbols

QUANTISER = ("levels", "norm", "scale", "block", "entropy", "small")
SPARSE = ("share", "small")
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
        name: "float32", "float16", "bfloat16", "qsgd", "topk", "ef21", or an entry point or import path (`CODECS`).
        levels: s of the quantiser: magnitudes are 0 to s times norm / s.
        norm: "l2" (QSGD, FedPAQ) or "max".
        scale: what shares one norm: "whole" (all quantised tensors), "tensor", or "block".
        block: coordinates of a block; the last one of a tensor is shorter.
        entropy: how levels become bits: "fixed" (ceil(log2(s + 1)) + 1 each), "elias" (Elias gamma), "range".
        share: of the coordinates that top-k keeps, in (0, 1].
        small: tensors of fewer coordinates than this cross the wire as float32.

    Raises:
        SettingError: a value that is not allowed.
    """

    name: str = "float32"
    _: KW_ONLY
    levels: int = 7
    norm: str = "l2"
    scale: str = "block"
    block: int = 512
    entropy: str = "fixed"
    share: float = 0.01
    small: int = 1000

    def __post_init__(self) -> None:
        closed: tuple[tuple[str, str, Collection[str]], ...] = (
            ("codec-norm", self.norm, NORMS),
            ("codec-scale", self.scale, SCALES),
            ("codec-entropy", self.entropy, ENTROPIES),
        )
        for key, value, allowed in closed:
            if value not in allowed:
                raise SettingError(key, value, allowed)
        CODECS[self.name]  # or an error that says what there is
        most = MOST_LEVELS_RANGE if self.entropy == "range" else MOST_LEVELS
        whole = (
            ("codec-levels", self.levels, 1, most),
            ("codec-block", self.block, 1, 2**31),
            ("codec-small", self.small, 0, 2**62),
        )
        for key, number, least, limit in whole:
            if type(number) is not int or not least <= number <= limit:
                raise SettingError(key, number, f"a whole number, {least} to {limit}")
        if not isinstance(self.share, int | float) or not 0 < self.share <= 1:  # NaN is not either
            raise SettingError("codec-share", self.share, "more than 0 and at most 1")

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
