"""Arrays as they lie in memory."""

from __future__ import annotations

from typing import Any

import torch
from flwr.app import Array

from protocol import encode
from protocol.arrays import same_memory


def test_the_same_memory_is_the_same_bytes_that_say_the_same() -> None:
    octets = bytes(encode(torch.arange(4.0)).data)

    def array(data: Any, dtype: str = "float32", shape: tuple[int, ...] = (4,)) -> Array:
        found = Array(dtype, shape, "numpy.ndarray", b"")
        found.data = data
        return found

    view = memoryview(octets)
    assert same_memory(array(view), array(view[:]))
    assert not same_memory(array(view), array(memoryview(bytearray(octets))))
    assert not same_memory(array(view), array(view[:-4]))
    assert not same_memory(array(view), array(view, "float64"))
    assert not same_memory(array(view), array(view, shape=(2, 2)))
