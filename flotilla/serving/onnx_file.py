"""A tier in one ONNX file: any number of examples at a time, weights inside, and what the inputs are.

The exporter leaves in every node where in whose Python files it came from: most of the bytes of a small network, and
paths of the machine. All of that is taken out; what a reader needs is in the file's metadata, as the JSON text
"flotilla" (see `tier_file.described`).
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flotilla.serving.model import TierModel
from flotilla.serving.tier_file import described
from models.evaluation import BATCH
from server_app.folder.tensor_file import write_hashed

INPUT, OUTPUT = "input", "logits"
_KEY = "flotilla"


class CannotExport(ValueError):
    """No such file can be made of this network, or it would not compute the same; the text says why, in one line."""


def check_installed() -> None:
    """See whether the packages of the extra `export` are there.

    Raises:
        CannotExport: one is missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise CannotExport(f"ONNX needs {error.name}: pip install 'flotilla[export]'") from None


def onnx_bytes(model: TierModel) -> bytes:
    """The file's content.

    Raises:
        CannotExport: torch's exporter cannot translate this network.
    """
    shape, text = model.card.inputs.input_shape, bool(model.card.inputs.vocabulary)
    example = torch.zeros(2, *shape, dtype=torch.int64 if text else torch.float32)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the exporter's own about its future
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except Exception as error:  # whatever of torch.export, its decompositions or onnxscript gives up
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        network = model.card.network.name
        raise CannotExport(f"tier {model.card.tier!r}: the exporter cannot translate {network!r}: {reason}") from None
    assert program is not None  # it is None for the other exporter only
    proto = program.model_proto
    _strip(proto)
    entry = proto.metadata_props.add()
    entry.key, entry.value = _KEY, json.dumps(described(model.card), ensure_ascii=False)
    return bytes(proto.SerializeToString(deterministic=True))


def write_onnx(content: bytes, file: Path) -> None:
    """Write the file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    temporary = file.with_name(f".{file.name}")
    try:
        write_hashed(temporary, [content])
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


class OnnxModel:
    """x (N, *input_shape) → logits (N, classes), by onnxruntime in one thread.

    Args:
        content: of an ONNX file.
    """

    def __init__(self, content: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Logits of one batch."""
        found: NDArray[np.float32] = self._session.run([OUTPUT], {INPUT: x})[0]
        return found

    def logits(self, inputs: Tensor) -> Tensor:
        """Logits of many examples."""
        return torch.cat([torch.from_numpy(self.run(batch.numpy())) for batch in torch.split(inputs, BATCH)])


def _strip(proto: Any) -> None:
    """Take out of a model what says where it came from, and the shapes in between, which nobody needs."""
    del proto.metadata_props[:]
    for graph in (proto.graph, *proto.functions):
        graph.doc_string = ""
        del graph.value_info[:]
        del graph.metadata_props[:]
        values = () if graph is not proto.graph else (*graph.input, *graph.output, *graph.initializer)
        for one in (*graph.node, *values):
            one.doc_string = ""
            del one.metadata_props[:]
