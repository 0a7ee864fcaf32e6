"""Pictures that a library hands out one by one, as values of one size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.data_error import DataError
from data.files import Files
from data.picture import errors, pixels, read_picture


def shape_of(files: Files) -> tuple[int, int, int]:
    """Channels, height and width that pictures come to, by the settings."""
    return files.image_channels, files.image_size, files.image_size


class PictureDecoder:
    """Decodes pictures: files, what is in such files, or Pillow's.

    Args:
        files: how they come to their size.
        floats: whether one of them has more than 8 bits; then all values are float32, else uint8.
        get: gives what stands for a picture: a path, bytes or a Pillow image.
        name: says which picture it is, for errors.
    """

    def __init__(
        self, files: Files, floats: bool, get: Callable[[Any], Any], name: Callable[[Any], object] = str
    ) -> None:
        self.shape, self._fit, self._root = shape_of(files), files.image_fit, files.root
        self.dtype: np.dtype[Any] = np.dtype(np.float32 if floats else np.uint8)
        self._get, self._name = get, name

    def __call__(self, kept: Sequence[Any]) -> Tensor:
        """Values [n, C, H, W].

        Raises:
            DataError: one cannot be read, or has a value that is not finite; names it.
        """
        values = torch.empty(len(kept), *self.shape, dtype=torch.float32 if self.dtype == np.float32 else torch.uint8)
        for row, one in enumerate(kept):
            try:
                found = torch.from_numpy(self._read(self._get(one)))
            except errors() as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                allowed = f"a folder of readable images ({self._name(one)}: {reason})"
                raise DataError(self._root, allowed, "a picture cannot be read; its log says which") from error
            if not found.isfinite().all():
                allowed = f"a folder of pictures with finite values ({self._name(one)} has one that is not)"
                raise DataError(self._root, allowed, "a value is not finite; its log says which")
            if found.is_floating_point() and not values.is_floating_point():
                values = values.float()  # it was replaced by one of more than 8 bits since that was looked at
            values[row] = found
        return values

    def _read(self, one: Any) -> NDArray[Any]:
        if isinstance(one, bytes):
            return read_picture(BytesIO(one), self.shape, self._fit)
        if isinstance(one, Path):
            return read_picture(one, self.shape, self._fit)
        return pixels(one, self.shape, self._fit)
