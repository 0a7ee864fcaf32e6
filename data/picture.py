"""A picture file as values: grey or colour, one size, 0 (black) to 255 (white) whatever the file's depth.

Everybody reads pictures by this: devices that train, the server that tests, and who uses the network afterwards.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 2**25  # of a picture: decoded it takes up to four bytes each, whatever it is scaled to afterwards
DEEP, LARGE = 1, 2  # of a header: more than 8 bits, so that values are floats; more pixels than are decoded
_FORMAT = 2  # of the values; another one where `pixels` gives others of the same picture
# Pillow opens these, but hands them to another program (Ghostscript) or has no decoder of its own.
_NOT_OURS = frozenset({"EPS", "MPEG", "HDF5", "GRIB", "BUFR", "WMF"})
# White of the modes that have more than 8 bits. Floats are taken as 0 to 1.
_WHITE = {"I;16": 65535.0, "I;16B": 65535.0, "I;16L": 65535.0, "I;16N": 65535.0, "I": 2.0**31 - 1, "F": 1.0}
# Pillow scales what a PGM file says is white to 16 bits, and keeps it in 32.
_SIXTEEN_IN_32 = frozenset({"PNG", "PPM"})
_BITS, _SIGNED = (258, 339), 2  # tags of TIFF: bits of a value, and how it is to be read
_SLACK = 1e-3  # how far a float may be from 0 to 1, by rounding


@cache
def suffixes() -> frozenset[str]:
    """Endings of the files that Pillow decodes by itself, in lower case."""
    from PIL import Image

    known = Image.registered_extensions()
    return frozenset(suffix for suffix, name in known.items() if name in Image.OPEN and name not in _NOT_OURS)


@cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(sorted(set(Image.OPEN) - _NOT_OURS))


def version() -> str:
    """What the values of a picture depend on besides its file and the settings."""
    import PIL

    return f"{_FORMAT} {PIL.__version__}"


def errors() -> tuple[type[Exception], ...]:
    """What Pillow raises of a file that is damaged or none."""
    from PIL import Image

    return (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError)


def deep(image: Image) -> bool:
    """Whether it has more than 8 bits, so that its values are floats."""
    return image.mode in _WHITE


def header(file: Path | str | BinaryIO) -> int:
    """What a picture's header says: `DEEP` or not, plus `LARGE` or not; 0 of what cannot be read."""
    try:
        with _opened(file) as image:
            return DEEP * deep(image) + LARGE * _beyond(image)
    except errors():
        return 0


def _beyond(image: Image) -> bool:
    """Whether it is too large; a JPEG is decoded at a fraction of its size where that helps."""
    if image.width * image.height > MOST_PIXELS:
        image.draft("RGB", (1, 1))
    return image.width * image.height > MOST_PIXELS


@contextmanager
def _opened(file: Path | str | BinaryIO) -> Iterator[Image]:
    from PIL import Image

    with warnings.catch_warnings():
        # Of a size that is bounded here, of odd metadata, of a transparent palette.
        warnings.simplefilter("ignore")
        with Image.open(file, formats=_formats()) as image:
            yield image


def read_picture(file: Path | BinaryIO, shape: tuple[int, int, int], fit: str) -> NDArray[Any]:
    """Values of a file, see `pixels`.

    Raises:
        Any of `errors()`: it cannot be read, or has more than `MOST_PIXELS`.
    """
    with _opened(file) as image:
        if _beyond(image):
            raise ValueError(f"{image.width} x {image.height} pixels; allowed are {MOST_PIXELS}")
        return pixels(image, shape, fit)


def pixels(image: Image, shape: tuple[int, int, int], fit: str) -> NDArray[Any]:
    """Values [C, H, W] of a picture: uint8, or float32 in the same unit where it has more than 8 bits.

    Args:
        image: as Pillow opened it; turned as its metadata say it was taken.
        shape: channels (1 is grey, 3 colour), height and width.
        fit: "stretch" to the size whatever the sides are, "pad" the whole picture with black, "crop" its middle.

    Raises:
        ValueError: floats that are not from 0 to 1, whose white nobody knows.
    """
    from PIL import Image as pillow
    from PIL import ImageOps

    channels, height, width = shape
    white, unsigned = _white(image)
    upright = ImageOps.exif_transpose(image)
    if white is not None:
        stored = np.asarray(upright)
        values = (stored.view(np.uint32) if unsigned else stored).astype(np.float32)
        if image.mode == "F" and not (values.min() >= -_SLACK and values.max() <= 1 + _SLACK):
            raise ValueError(f"floats from {values.min():g} to {values.max():g}; allowed are 0 (black) to 1 (white)")
        plain = pillow.fromarray(np.clip(values * np.float32(255 / white), 0, 255))
    else:
        # Pillow warns about a transparent palette that is turned into colour in one step.
        opaque = upright.convert("RGBA") if "transparency" in upright.info else upright
        plain = opaque.convert("L" if channels == 1 else "RGB")
    size, method = (width, height), pillow.Resampling.BILINEAR
    if fit == "pad":
        plain = ImageOps.pad(plain, size, method)
    elif fit == "crop":
        plain = ImageOps.fit(plain, size, method)
    else:
        plain = plain.resize(size, method)
    found = np.array(plain).reshape(height, width, -1).transpose(2, 0, 1)
    return np.repeat(found, 3, axis=0) if channels == 3 and len(found) == 1 else found


def _white(image: Image) -> tuple[float | None, bool]:
    """White of a picture of more than 8 bits, None of others; and whether what Pillow has as int32 has no sign."""
    if image.mode != "I":
        return _WHITE.get(image.mode), False
    if image.format in _SIXTEEN_IN_32:
        return 65535.0, False
    tags = getattr(image, "tag_v2", {})
    bits, kind = (int(np.ravel(tags.get(tag, 0))[0]) for tag in _BITS)
    if bits == 16:
        return 32767.0, False
    unsigned = bits == 32 and kind != _SIGNED
    return 2.0**32 - 1 if unsigned else _WHITE["I"], unsigned
