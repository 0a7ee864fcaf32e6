"""A state as a safetensors file, written without a copy of it and on the disk when the call returns."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def serialised(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> Iterable[bytes | memoryview]:
    """Yield a safetensors file piece by piece, without a copy; names that share memory are written twice.

    Args:
        tensors: by name.
        metadata: texts by name that stand in the header, under the format's "__metadata__".

    The format (https://huggingface.co/docs/safetensors): the header's length as 8 bytes, little endian; a JSON header
    of dtype, shape and offsets, padded with spaces to 8 bytes; then the data, widest dtypes first to stay aligned.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _DTYPES:
            raise TypeError(f"checkpoint tensor {name} is {tensor.dtype}, which safetensors cannot hold")
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        if flat.numel():  # an empty tensor from NumPy has a stride of 0, which cannot be seen as bytes
            yield flat.view(torch.uint8).numpy().data


def write_hashed(file: Path, pieces: Iterable[bytes | memoryview], *, sync: bool = True) -> tuple[int, str]:
    """Write a new file and return its size in bytes and its SHA-256; with `sync` it is on the disk then."""
    pieces = list(pieces)
    # Hashing takes as long as writing and both let go of the GIL, so one hides behind the other.
    with ThreadPoolExecutor(1) as pool, open(file, "wb", buffering=0) as stream:
        sha256 = pool.submit(_sha256, pieces)
        for piece in pieces:
            rest = memoryview(piece)
            while rest:  # a disk about to be full takes a part, and fails at the next
                rest = rest[stream.write(rest) :]
        if sync:
            os.fsync(stream.fileno())
        return stream.tell(), sha256.result()


def _sha256(pieces: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
