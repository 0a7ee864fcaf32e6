"""An average that also keeps, of every reply, what it says of pairs of low-rank factors: A and B of each device.

The product of averages is not the average of products, so rules that average products B·A need the factors of every
device by themselves. Kept are the differences as they came, nothing of the product's size; beyond 256 MiB they are in
files that have no name, so that memory is bounded whatever the number of clients.

As of a robust mean, each reply counts as the step that it would make alone, a·Δ/b, and with weight b.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.algebra.average import PartialAverage
from models.algebra.axes import Layout
from models.algebra.pairs import Pair
from models.algebra.stack import Stack, Who
from models.algebra.submodel import Block, Submodel

_IN_MEMORY = 256 << 20  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    pieces: Mapping[str, tuple[Block, Tensor]]  # paired tensor → its block, and its part of the difference
    step: float
    weight: float


class FactorAverage(PartialAverage):
    """A `PartialAverage` that can be asked what every device has made of a pair since the last reset.

    Args:
        layout: declaration of the full network.
        in_memory: bytes of differences that are kept in memory; further ones are in files.
    """

    def __init__(self, layout: Layout, *, in_memory: int = _IN_MEMORY) -> None:
        super().__init__(layout)
        self._paired = frozenset(name for pair in layout.pairs for name in (pair.a, pair.b))
        self._replies: list[_Kept] = []
        self._known: dict[object, Who] = {}
        self._scale, self._bytes, self._in_memory = 1.0, 0, in_memory

    def reset(self) -> None:
        """Forget what was added."""
        super().reset()
        self._replies.clear()
        self._known.clear()
        self._scale, self._bytes = 1.0, 0

    def add(
        self,
        submodel: Submodel,
        difference: Tensor,
        numerator: float = 1.0,
        denominator: float = 1.0,
        labels: Collection[int] | None = None,
        *,
        norm: float | None = None,
    ) -> float:
        """Add one client's difference (see `PartialAverage.add`), and keep what it says of pairs until `reset`."""
        own = self._kept(difference)  # first: what fails here has not counted yet
        norm = super().add(submodel, difference, numerator, denominator, labels, norm=norm)
        self._bytes += 4 * difference.numel()
        pieces = torch.split(own, submodel.lengths)
        kept = {
            block.source: (block, piece.view(block.local_shape))
            for block, piece in zip(submodel.values(), pieces, strict=True)
            if block.source in self._paired
        }
        self._replies.append(_Kept(pieces=kept, step=numerator / denominator, weight=denominator))
        return norm

    def add_sum(self, submodel: Submodel, summed: Tensor, denominator: float, count: int) -> None:
        """Refuse: in a sum of several clients nobody's factors can be told.

        Raises:
            ValueError: always.
        """
        raise ValueError("of a sum of several clients nobody's factors can be told")

    def finish(
        self,
        previous: Mapping[str, Tensor],
        out: Mapping[str, Tensor] | None = None,
        *,
        scale: float = 1.0,
        least: int = 1,
    ) -> dict[str, Tensor]:
        """As `PartialAverage.finish`; the factors that are asked for later have taken steps of this scale too."""
        result = super().finish(previous, out, scale=scale, least=least)
        self._scale = scale
        self._known.clear()
        return result

    def stack(self, pair: Pair, before: Mapping[str, Tensor]) -> Stack | None:
        """What the devices that held some of a pair made of it, in the order in which they were added; None if nobody.

        Args:
            pair: one of the layout's.
            before: the state that the differences refer to.

        Raises:
            ValueError: a device held only some rows of B or columns of A.
        """
        held = [reply for reply in self._replies if pair.a in reply.pieces and pair.b in reply.pieces]
        if not held:
            return None
        lefts, rights = [reply.pieces[pair.b] for reply in held], [reply.pieces[pair.a] for reply in held]
        for (b, _), (a, _) in zip(lefts, rights, strict=True):
            if b.local_shape[0] != b.shape[0] or a.local_shape[1] != a.shape[1]:
                raise ValueError(f"a device held {b.local_shape} of {pair.b!r} and {a.local_shape} of {pair.a!r}")
        return Stack(
            b=before[pair.b],
            a=before[pair.a],
            left=torch.cat([moved for _, moved in lefts], 1),
            right=torch.cat([moved for _, moved in rights]),
            who=self._who(held, [a for a, _ in rights]),
        )

    def _who(self, held: Sequence[_Kept], blocks: Sequence[Block]) -> Who:
        """Whose ranks stand where; found once for all pairs that the same devices hold alike."""
        key = tuple((id(reply), block.runs[0]) for reply, block in zip(held, blocks, strict=True))
        if key not in self._known:
            every = [torch.arange(b.shape[0]) if b.indices[0] is None else b.indices[0] for b in blocks]
            lengths = [len(ranks) for ranks in every]
            steps = torch.tensor([self._scale * reply.step for reply in held])
            self._known[key] = Who(
                ranks=torch.cat(every),
                steps=steps.repeat_interleave(torch.tensor(lengths))[:, None],
                weights=[reply.weight for reply in held],
                lengths=lengths,
            )
        return self._known[key]

    def _kept(self, difference: Tensor) -> Tensor:
        """The difference itself, which nobody writes to, or what maps a file of its numbers."""
        if self._bytes + 4 * difference.numel() <= self._in_memory or not difference.numel():
            return difference
        with (
            suppress(OSError, ValueError),  # the latter: a file that is too short to be mapped
            tempfile.TemporaryFile(buffering=0) as file,
        ):  # its pages live as long as they are mapped
            rest = difference.contiguous().numpy().data.cast("B")
            while rest:  # one call writes 2 GiB at most, and less on a disk that is nearly full
                if not (written := file.write(rest)):
                    raise OSError("nothing was written")
                rest = rest[written:]
            return torch.from_numpy(np.memmap(file, dtype=np.float32, mode="c", shape=difference.shape))
        return difference  # no room there; there may be some in memory
