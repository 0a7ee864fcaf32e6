"""A device that has nothing but an exported file: numpy, Pillow and onnxruntime, no torch and no Flotilla.

flotilla export runs/latest --tier c --to onnx
python examples/onnx_device.py runs/latest/export/tier-c.onnx picture.png …
"""

from __future__ import annotations

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

FITS = {"stretch": Image.Image.resize, "pad": ImageOps.pad, "crop": ImageOps.fit}


def main(file: str, *pictures: str) -> None:
    """Print the class of every picture, and its probability."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    told = json.loads(session.get_modelmeta().custom_metadata_map["flotilla"])["inputs"]
    channels, height, width = told["input_shape"]
    mean, std = (np.array(told[name], np.float32).reshape(-1, 1, 1) for name in ("mean", "std"))
    batch = []
    for picture in pictures:
        with Image.open(picture) as image:
            plain = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
        values = np.asarray(FITS[told["fit"]](plain, (width, height), Image.Resampling.BILINEAR), np.float32)
        values = values.reshape(height, width, channels).transpose(2, 0, 1) * np.float32(told["white"] / 255)
        batch.append((values - mean) / std)
    logits = session.run(["logits"], {"input": np.stack(batch)})[0]
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    for picture, row in zip(pictures, shares, strict=True):
        print(f"{picture}  {told['classes'][int(row.argmax())]}  {row.max():.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
