"""The same ONNX file with weights and activations of 8 bits: static quantisation by onnxruntime, per channel.

Scales of activations are found by running examples through the file (calibration). Weights take a quarter of the bytes;
whether it is faster depends on the machine and on the network, and small ones become slower and even larger: what it
costs is measured, and float is kept where it is better (`export_table.why_not`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flotilla.serving.formats.onnx_file import sealed
from flotilla.serving.formats.quiet import quiet
from flotilla.serving.formats.runtime import INPUT, untranslated
from flotilla.serving.model import TierModel

EXAMPLES = 200  # that calibrate, where there are so many


@dataclass(frozen=True, kw_only=True)
class Int8:
    """That files of 8 bits are wanted.

    Attributes:
        inputs: files that calibrate, as `flotilla predict` takes them; () takes the run's own training data.
        force: whether they are kept where float is smaller, faster or better.
    """

    inputs: tuple[Path, ...] = ()
    force: bool = False


def quantised(model: TierModel, content: bytes, inputs: Tensor) -> bytes:
    """The content of an int8 file.

    Args:
        model: the network.
        content: of its float file.
        inputs: examples (N, *input_shape) that calibrate.

    Raises:
        CannotExport: onnxruntime cannot quantise it.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with TemporaryDirectory(prefix="int8-") as folder, quiet():
        whole, ready, small = (Path(folder) / f"{name}.onnx" for name in ("float", "ready", "int8"))
        whole.write_bytes(content)
        try:
            quant_pre_process(whole, ready, skip_symbolic_shape=True)
            quantize_static(ready, small, _Examples(inputs), quant_format=QuantFormat.QDQ, per_channel=True)
            proto = onnx.load(small)
        except Exception as error:  # whatever of shape inference, calibration or the quantiser gives up
            raise untranslated(model, "onnxruntime's quantiser", error) from None
    return sealed(proto, model.card, precision="int8")


class _Examples:
    """What the quantiser asks for batches; it wants None at their end."""

    def __init__(self, inputs: Tensor) -> None:
        self._batches: Iterator[Tensor] = iter(torch.split(inputs, 32))

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next batch by the input's name."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: np.ascontiguousarray(batch.numpy())}
