"""Handwritten digits as pictures on devices: two have 0 to 4, two have 5 to 9, each in folders of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

DEVICES = 4


def make(root: Path, examples: int, tested: int) -> None:
    """Write `root/device/<client>/<class>/*.png` and `root/server/test/<class>/*.png`."""
    images, labels = load_digits(return_X_y=True)
    pictures = (images.reshape(-1, 8, 8) * 255 / 16).round().astype(np.uint8)
    for number in range(examples + tested):
        label = int(labels[number])
        device = 2 * (label > 4) + number % 2
        part = f"device/{device}" if number < examples else "server/test"
        folder = root / part / f"digit {label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures[number]).save(folder / f"{number:04}.png")
