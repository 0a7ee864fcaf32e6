"""The facts of a run's task: what its classes are called, and how an input is made of what is in a file.

Decided once per run (from the server's data, from a file, or from sums that the nodes send), saved in the run folder,
sent with every request, kept in exported files. A device maps its labels by name and normalises by these numbers; it
decides nothing of its own. A source says of itself what only it knows (`SourceFacts`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import isfinite, prod
from typing import Any

from models.losses import TASKS

UNITS = ("", "words", "characters", "subwords", "tokens before")
FITS = ("stretch", "pad", "crop")
# Bounds of what a peer or a file may say.
MOST_NAMES = 2**20  # classes, tokens
MOST_CHARACTERS = 200  # of a name
MOST_VALUES = 2**28  # of one input
MOST_DETAILS = 2**23  # characters


@dataclass(frozen=True, kw_only=True)
class SourceFacts:
    """What a source says of itself. A source that is not built in may have a method `facts(files)` that returns this.

    Attributes:
        classes: names, in the order of the labels; () names them by their numbers.
        white: value of a white pixel in the files; pictures of 0 to 255 are scaled to it.
        units: what a text consists of, one of `UNITS`; "" is no text, "subwords" is what a tokenizer in
            `details` makes of it, "tokens before" the same of a text that goes on: each is one more, and the last stay.
        tokens: its units, in the order of their numbers, from 2 on; 0 is padding and 1 unknown.
        task, details: see `InputFacts`.
        fit: how a picture comes to its size, one of `FITS`: "stretch" whatever its sides are, "pad" with black, "crop"
            to its middle.
    """

    classes: tuple[str, ...] = ()
    white: float = 255.0
    units: str = ""
    tokens: tuple[str, ...] = ()
    task: str = "classification"
    details: str = ""
    fit: str = "stretch"


@dataclass(frozen=True, kw_only=True)
class InputFacts:
    """Inputs and labels of a run.

    Attributes:
        dataset: its name.
        classes: names, in the order of the labels.
        input_shape: of one input: (channels, height, width), (channels, time) or (length,).
        vocabulary: number of different tokens; 0 where inputs are no texts.
        images: whether inputs are pictures.
        mean, std: per channel, of values as they come from disk; () for texts. An input is (value - mean) / std.
        least, greatest: of the training values of any channel, as they come from disk; 0 for texts.
        white: value of a white pixel.
        units, tokens, fit: see `SourceFacts`.
        task: what a label is, one of `TASKS`; the names in `classes` are those of the numbers that are predicted, or of
            the questions that are answered, where it is no class.
        examples: of the training part that is divided among devices; 0 where devices own theirs. A device that finds
            another number has other files, and its share would be wrong.
        details: what only the source itself reads, such as the columns of a table or a tokenizer, as JSON text.

    Raises:
        ValueError: something of another size or shape, or not finite; one line.
    """

    dataset: str
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    vocabulary: int = 0
    images: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    least: float = 0.0
    greatest: float = 0.0
    white: float = 255.0
    units: str = ""
    tokens: tuple[str, ...] = ()
    task: str = "classification"
    examples: int = 0
    details: str = ""
    fit: str = "stretch"

    def __post_init__(self) -> None:
        """Facts come from peers and files: nothing is taken as it is."""
        for what, names in (("classes", self.classes), ("tokens", self.tokens)):
            long = next((f"; one begins with {name[:40]!r}" for name in names if len(name) > MOST_CHARACTERS), "")
            if len(names) > MOST_NAMES or long:
                raise ValueError(f"{what}: allowed are {MOST_NAMES} of {MOST_CHARACTERS} characters each{long}")
            if len(set(names)) != len(names):
                raise ValueError(f"{what}: two have the same name")
        if not 1 <= len(self.input_shape) <= 3 or min(self.input_shape) < 1 or prod(self.input_shape) > MOST_VALUES:
            raise ValueError(f"input_shape: {self.input_shape[:4]} is none of 1 to 3 whole numbers")
        numbers = (*self.mean, *self.std, self.least, self.greatest, self.white)
        if not all(map(isfinite, numbers)) or any(value <= 0 for value in self.std):
            raise ValueError("mean, std, least, greatest, white: allowed are finite numbers, and std above 0")
        if len(self.mean) != len(self.std) or len(self.mean) not in (0, self.input_shape[0]):
            raise ValueError(f"mean, std: {len(self.mean)} and {len(self.std)} for inputs of {self.input_shape}")
        if not 0 <= self.vocabulary <= MOST_NAMES or not 0 <= self.examples < 2**53:
            raise ValueError("vocabulary, examples: out of range")
        if (
            self.units not in UNITS
            or self.fit not in FITS
            or self.task not in TASKS
            or len(self.details) > MOST_DETAILS
        ):
            raise ValueError("units, fit, task, details: not what this version knows")

    def to_json(self) -> str:
        """Serialise; floats come back as the same bits."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @staticmethod
    @lru_cache(maxsize=8)  # every request of a run brings the same text
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
                least=float(told["least"]),
                greatest=float(told["greatest"]),
                white=float(told["white"]),
                units=str(told["units"]),
                tokens=tuple(map(str, told["tokens"])),
                task=str(told["task"]),
                examples=int(told["examples"]),
                details=str(told["details"]),
                fit=str(told["fit"]),
            )
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"no facts of inputs ({error!r})") from None

    def steps(self) -> list[str]:
        """How an input is made of what is in a file, in words, a step each."""
        shape = " x ".join(map(str, self.input_shape))
        if self.units == "subwords":
            kept = f"keep the first {self.input_shape[0]}, fill up with 0 at the end: int64 [N, {self.input_shape[0]}]"
            return ["number the text's tokens by the tokenizer in `details` (JSON of the library tokenizers)", kept]
        if self.units == "tokens before":
            kept = f"keep the last {self.input_shape[0]}, fill up with 0 at the end: int64 [N, {self.input_shape[0]}]"
            return [
                "number the text's tokens by the tokenizer in `details` (JSON of the library tokenizers), and add 1",
                kept,
                "class i is the tokenizer's token i",
            ]
        if self.vocabulary:
            kept = "first" if self.units == "words" else "last"
            size = f"{self.input_shape[0]} {self.units or 'tokens'}"
            return [
                f"split the text into {self.units or 'tokens'}" + (" at white space" if self.units == "words" else ""),
                "number each: 0 is padding, 1 unknown, from 2 on the place in `tokens`",
                f"keep the {kept} {size}, fill up with 0 at the end: int64 [N, {self.input_shape[0]}]",
            ]
        if self.details.startswith('{"columns"'):
            return [
                "numbers as they are, the mean where one is missing (a feature of its own says so); a feature of 0 or 1"
                " for every category: see `details`",
                f"(value - mean) / std per feature: float32 [N, {shape}]",
            ]
        side = " x ".join(map(str, self.input_shape[1:]))
        way = {"stretch": "resized to", "pad": "padded with black, resized to", "crop": "its middle, resized to"}
        picture = [
            f"{'grey' if self.input_shape[0] == 1 else 'colour'}, {way[self.fit]} {side} (bilinear)",
            f"values from 0 (black) to {self.white:g} (white)",
        ]
        return [*(picture if self.images else []), f"(value - mean) / std per channel: float32 [N, {shape}]"]
