"""What somebody needs to know of a data set to use a network that was trained on it: classes, and how inputs are made.

A source says of itself what only it knows (`SourceFacts`); `InputFacts` is that with what was computed, as a run folder
and an exported file hold it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

UNITS = ("", "words", "characters")


@dataclass(frozen=True, kw_only=True)
class SourceFacts:
    """What a source says of itself. A source that is not built in may have a method `facts(files)` that returns this.

    Attributes:
        classes: names, in the order of the labels; () names them by their numbers.
        white: value of a white pixel in the files; pictures of 0 to 255 are scaled to it.
        units: what a text consists of, one of `UNITS`; "" is no text.
        tokens: its units, in the order of their numbers, from 2 on; 0 is padding and 1 unknown.
    """

    classes: tuple[str, ...] = ()
    white: float = 255.0
    units: str = ""
    tokens: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class InputFacts:
    """Inputs and labels of a data set.

    Attributes:
        dataset: its name.
        classes: names, in the order of the labels.
        input_shape: of one input: (channels, height, width), (channels, time) or (length,).
        vocabulary: number of different tokens; 0 where inputs are no texts.
        images: whether inputs are pictures.
        mean, std: per channel, of values as they come from disk; () for texts. An input is (value - mean) / std.
        white: value of a white pixel.
        units, tokens: see `SourceFacts`.
    """

    dataset: str
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    vocabulary: int = 0
    images: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    white: float = 255.0
    units: str = ""
    tokens: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Serialise; floats come back as the same bits."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @staticmethod
    def from_json(text: str) -> InputFacts:
        """Read what `to_json` wrote.

        Raises:
            ValueError: something else.
        """
        try:
            told: dict[str, Any] = json.loads(text)
            return InputFacts(
                dataset=str(told["dataset"]),
                classes=tuple(map(str, told["classes"])),
                input_shape=tuple(map(int, told["input_shape"])),
                vocabulary=int(told["vocabulary"]),
                images=bool(told["images"]),
                mean=tuple(map(float, told["mean"])),
                std=tuple(map(float, told["std"])),
                white=float(told["white"]),
                units=str(told["units"]),
                tokens=tuple(map(str, told["tokens"])),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no facts of inputs ({error!r})") from None

    def steps(self) -> list[str]:
        """How an input is made of what is in a file, in words, a step each."""
        shape = " x ".join(map(str, self.input_shape))
        if self.vocabulary:
            kept = "first" if self.units == "words" else "last"
            size = f"{self.input_shape[0]} {self.units or 'tokens'}"
            return [
                f"split the text into {self.units or 'tokens'}" + (" at white space" if self.units == "words" else ""),
                "number each: 0 is padding, 1 unknown, from 2 on the place in `tokens`",
                f"keep the {kept} {size}, fill up with 0 at the end: int64 [N, {self.input_shape[0]}]",
            ]
        side = " x ".join(map(str, self.input_shape[1:]))
        picture = [
            f"{'grey' if self.input_shape[0] == 1 else 'colour'}, resized to {side} (bilinear)",
            f"values from 0 (black) to {self.white:g} (white)",
        ]
        return [*(picture if self.images else []), f"(value - mean) / std per channel: float32 [N, {shape}]"]
