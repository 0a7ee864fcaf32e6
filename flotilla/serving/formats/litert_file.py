"""A tier in one LiteRT model (.tflite), for Android and for boards that run TensorFlow Lite.

It takes one example at a time, laid out as PyTorch's. What the inputs are is the file `flotilla.json` in a zip at the
end of the model, where TensorFlow Lite keeps files that belong to a model: `unzip -p tier-c.tflite flotilla.json`.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile, ZipInfo

import numpy as np
import torch
from numpy.typing import NDArray

from flotilla.serving.formats.quiet import quiet
from flotilla.serving.formats.runtime import KEY, example_of, need, untranslated
from flotilla.serving.model import TierModel
from flotilla.serving.tier_file import described


def check_installed() -> None:
    """See whether the packages of the extra `litert` are there.

    Raises:
        CannotExport: one is missing.
    """
    with quiet():
        need("LiteRT", ("litert_torch", "ai_edge_litert.interpreter"), "litert")


def tflite_bytes(model: TierModel) -> bytes:
    """The file's content.

    Raises:
        CannotExport: LiteRT's converter cannot translate this network.
    """
    try:
        with quiet(), torch.no_grad(), TemporaryDirectory(prefix="litert-") as folder:
            import litert_torch

            file = Path(folder) / "model.tflite"
            litert_torch.convert(model, (example_of(model, 1),)).export(str(file))
            content = io.BytesIO(file.read_bytes())
    except Exception as error:  # whatever of torch.export or the converter gives up
        raise untranslated(model, "LiteRT's converter", error) from None
    with ZipFile(content, "a") as archive:
        # Of a fixed time, so that the same network gives the same file.
        archive.writestr(ZipInfo(f"{KEY}.json"), json.dumps(described(model.card), ensure_ascii=False))
    return content.getvalue()


class LiteRTModel:
    """x (1, *input_shape) → logits (1, classes), by LiteRT's interpreter in one thread.

    Args:
        content: of a .tflite file.
    """

    most = 1

    def __init__(self, content: bytes) -> None:
        with quiet():
            from ai_edge_litert.interpreter import Interpreter

            self._interpreter = Interpreter(model_content=content, num_threads=1)
            self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]

    def run(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Logits of one example."""
        self._interpreter.set_tensor(self._input, x)
        self._interpreter.invoke()
        found: NDArray[np.float32] = self._interpreter.get_tensor(self._output)
        return found
