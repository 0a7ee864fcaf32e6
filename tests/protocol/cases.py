"""What the codec tests share: a memory in a dict, parts of odd sizes, differences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from protocol.codecs import CodecSettings

# Tensors of a part: large ones of odd sizes, small ones between and beside them, an empty one.
SIZES = (7, 1600, 3, 0, 521, 12, 1024, 513)
SMALL = 100

EVERY = [
    CodecSettings("float32"),
    CodecSettings("float16"),
    CodecSettings("bfloat16"),
    *(
        CodecSettings("qsgd", levels=levels, norm=norm, scale=scale, block=96, entropy=entropy, small=SMALL)
        for levels, norm, scale, entropy in (
            (7, "l2", "block", "fixed"),
            (7, "l2", "tensor", "elias"),
            (7, "max", "whole", "range"),
            (1, "l2", "whole", "fixed"),
            (1, "max", "block", "elias"),
            (1, "l2", "tensor", "range"),
            (127, "max", "tensor", "fixed"),
            (128, "max", "block", "elias"),
            (255, "max", "block", "range"),
            (5, "max", "whole", "fixed"),
            (2**20, "l2", "whole", "fixed"),
            (2**20, "max", "block", "elias"),
        )
    ),
    CodecSettings("topk", share=0.01, small=SMALL),
    CodecSettings("topk", share=0.4, small=SMALL),
    CodecSettings("topk", share=1.0, small=SMALL),
    CodecSettings("ef21", share=0.05, small=SMALL),
    CodecSettings("eden", small=SMALL),
    CodecSettings("eden", bits=0.05, small=SMALL),
    CodecSettings("eden", bits=1.5, small=SMALL),
]


def named(settings: CodecSettings) -> str:
    """Short id of a case."""
    if settings.name == "qsgd":
        return f"qsgd-{settings.levels}-{settings.norm}-{settings.scale}-{settings.entropy}"
    if settings.name == "eden":
        return f"eden-{settings.bits}"
    return f"{settings.name}-{settings.share}" if settings.name in ("topk", "ef21") else settings.name


class Kept:
    """A memory that lasts as long as the test."""

    def __init__(self) -> None:
        self.vectors: dict[str, Tensor] = {}

    def read(self, name: str) -> Tensor | None:
        return self.vectors.get(name)

    def write(self, name: str, vector: Tensor) -> None:
        self.vectors[name] = vector.clone()


def difference(sizes: Sequence[int] = SIZES, seed: int = 0, scale: float = 1e-3) -> Tensor:
    """Normal coordinates of unequal spread, as differences of layers are."""
    draws = torch.Generator().manual_seed(seed)
    spread = [torch.full((size,), scale * 10 ** float(torch.randn((), generator=draws))) for size in sizes]
    return torch.randn(sum(sizes), generator=draws) * torch.cat(spread)


def draws(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))
