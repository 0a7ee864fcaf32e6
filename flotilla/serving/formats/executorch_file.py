"""A tier in one ExecuTorch program (.pte) for phones and small boards, lowered to XNNPACK where XNNPACK can.

The program's method `forward` is the network, for one example at a time; `flotilla` returns what the inputs are, as the
JSON text of `tier_file.described`.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flotilla.serving.formats.quiet import quiet
from flotilla.serving.formats.runtime import KEY, example_of, need, untranslated
from flotilla.serving.model import TierModel
from flotilla.serving.tier_file import described


def check_installed() -> None:
    """See whether the package of the extra `executorch` is there.

    Raises:
        CannotExport: it is missing.
    """
    with quiet():
        need("ExecuTorch", ("executorch.exir", "executorch.runtime"), "executorch")


def pte_bytes(model: TierModel) -> bytes:
    """The file's content.

    Raises:
        CannotExport: ExecuTorch cannot translate this network.
    """
    try:
        with quiet(), torch.no_grad():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            told = {KEY: json.dumps(described(model.card), ensure_ascii=False)}
            program = torch.export.export(model, (example_of(model, 1),))
            edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()], constant_methods=told)
            return bytes(edge.to_executorch().buffer)
    except Exception as error:  # whatever of torch.export or the lowering gives up
        raise untranslated(model, "ExecuTorch", error) from None


class ExecuTorchModel:
    """x (1, *input_shape) → logits (1, classes), by ExecuTorch's own runtime in one thread.

    Args:
        content: of a .pte file.
    """

    most = 1

    def __init__(self, content: bytes) -> None:
        with quiet():
            from executorch.extension.pybindings import portable_lib
            from executorch.runtime import Runtime

            portable_lib._unsafe_reset_threadpool(1)  # nobody else runs anything in it yet
            self._program = Runtime.get().load_program(content)
            self._method = self._program.load_method("forward")

    @property
    def described(self) -> str:
        """What the file says of itself, as JSON."""
        return str(self._program.load_method(KEY).execute([])[0])

    def run(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Logits of one example."""
        found: NDArray[np.float32] = self._method.execute([torch.from_numpy(x)])[0].numpy().copy()
        return found
