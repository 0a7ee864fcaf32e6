"""A tier in one ONNX file: any number of examples at a time, weights inside, and what the inputs are.

The exporter leaves in every node where in whose Python files it came from: most of the bytes of a small network, and
paths of the machine. All of that is taken out; what a reader needs is in the file's metadata, as the JSON text
"flotilla" (see `tier_file.described`).
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flotilla.serving.formats.runtime import INPUT, KEY, OUTPUT, example_of, need, untranslated
from flotilla.serving.model import ModelCard, TierModel
from flotilla.serving.tier_file import described


def check_installed() -> None:
    """See whether the packages of the extra `export` are there.

    Raises:
        CannotExport: one is missing.
    """
    need("ONNX", ("onnx", "onnxruntime", "onnxscript"), "export")


def onnx_bytes(model: TierModel) -> bytes:
    """The file's content.

    Raises:
        CannotExport: torch's exporter cannot translate this network.
    """
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the exporter's own about its future
            program = torch.onnx.export(
                model,
                (example_of(model, 2),),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except Exception as error:  # whatever of torch.export, its decompositions or onnxscript gives up
        raise untranslated(model, "the exporter", error) from None
    assert program is not None  # it is None for the other exporter only
    return sealed(program.model_proto, model.card)


def sealed(proto: Any, card: ModelCard, **more: str) -> bytes:
    """A model as bytes: nothing in it of where it came from, and what it is.

    Args:
        proto: an onnx.ModelProto; it is changed.
        card: what it is.
        more: entries beside those of `described`.
    """
    _strip(proto)
    entry = proto.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(described(card) | more, ensure_ascii=False)
    return bytes(proto.SerializeToString(deterministic=True))


class OnnxModel:
    """x (N, *input_shape) → logits (N, classes), by onnxruntime in one thread.

    Args:
        content: of an ONNX file.
    """

    most = sys.maxsize

    def __init__(self, content: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Logits of one batch."""
        found: NDArray[np.float32] = self._session.run([OUTPUT], {INPUT: x})[0]
        return found


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
    used = {domain for graph in (proto.graph, *proto.functions) for domain in _domains(graph)}
    for place in reversed(range(len(proto.opset_import))):
        if proto.opset_import[place].domain not in {"", *used, *(one.domain for one in proto.functions)}:
            del proto.opset_import[place]


def _domains(graph: Any) -> Iterator[str]:
    """Of the operations of a graph and of those inside them."""
    for node in graph.node:
        yield node.domain
        for attribute in node.attribute:
            yield from _domains(attribute.g)
