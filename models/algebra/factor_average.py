"""An average that keeps, of every reply, what it says of pairs of low-rank factors: A and B of each device.

The product of averages is not the average of products, so rules that average products B·A need the factors of every
device by themselves, and nothing else: pairs stay as they were here, and everything beside them is averaged. Kept are
the differences as they came, nothing of the product's size; beyond 256 MiB they are in files that have no name, so that
memory is bounded whatever the number of clients.

As of a robust mean, each reply counts as the step that it would make alone, a·Δ/b, and with weight b.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from math import prod

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
class _Part:
    """Where a paired tensor's part of a flat difference is.

    Attributes:
        block: which part it is.
        start: place of its first number.
        shape, strides: of the part.
    """

    block: Block
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    parts: Mapping[str, _Part]  # by paired tensor; one object for all who held the same submodel
    difference: Tensor  # flat
    step: float
    weight: float


class FactorAverage(PartialAverage):
    """A `PartialAverage` of all but pairs, which can be asked what every device has made of one since the last reset.

    Args:
        layout: declaration of the full network.
        in_memory: bytes of differences that are kept in memory; further ones are in files.
    """

    def __init__(self, layout: Layout, *, in_memory: int = _IN_MEMORY) -> None:
        self._paired = frozenset(name for pair in layout.pairs for name in (pair.a, pair.b))
        super().__init__(layout, apart=self._paired)
        self._replies: list[_Kept] = []
        self._places: dict[int, tuple[Submodel, Mapping[str, _Part]]] = {}
        self._known: dict[object, Who] = {}
        self._of: dict[str, Who | None] = {}
        self._room: dict[str, Tensor] = {}
        self._scale, self._bytes, self._in_memory = 1.0, 0, in_memory

    def reset(self) -> None:
        """Forget what was added."""
        super().reset()
        self._replies.clear()
        self._places.clear()
        self._known.clear()
        self._of.clear()
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
        self._of.clear()
        parts, step = self._paired_in(submodel), numerator / denominator
        self._replies.append(_Kept(parts=parts, difference=own.contiguous(), step=step, weight=denominator))
        return norm

    def _paired_in(self, submodel: Submodel) -> Mapping[str, _Part]:
        """Where a submodel has the tensors of pairs; found once for all who hold this object, which is kept with it."""
        if id(submodel) not in self._places:
            starts = accumulate(submodel.lengths, initial=0)
            found = {
                block.source: _Part(block=block, start=start, shape=(shape := block.local_shape), strides=(shape[1], 1))
                for start, block in zip(starts, submodel.values(), strict=False)
                if block.source in self._paired
            }
            self._places[id(submodel)] = (submodel, found)
        return self._places[id(submodel)][1]

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
        self._of.clear()
        return result

    def who(self, pair: Pair) -> Who | None:
        """Whose ranks of a pair were added, one object for all pairs that the same devices hold alike; None: nobody's.

        Raises:
            ValueError: a device held only some rows of B or columns of A.
        """
        if pair.axis not in self._of:
            held = self._held(pair)
            self._of[pair.axis] = self._who(held, pair)
        return self._of[pair.axis]

    def stack(self, pair: Pair, before: Mapping[str, Tensor]) -> Stack | None:
        """What the devices that held some of a pair made of it; see `stacks`. None if nobody did."""
        return None if self.who(pair) is None else self.stacks([pair], before)[0]

    def stacks(self, pairs: Sequence[Pair], before: Mapping[str, Tensor]) -> list[Stack]:
        """What devices made of pairs, in the order in which they were added; good until the next call.

        Args:
            pairs: of the layout, of one shape, that the same devices held alike (`who`).
            before: the state that the differences refer to.

        Raises:
            ValueError: as `who`; nobody held them, or some others than the first.
        """
        who = self.who(pairs[0])
        if who is None or any(self.who(pair) is not who for pair in pairs):
            raise ValueError("expected pairs that the same devices held alike")
        b, a = before[pairs[0].b], before[pairs[0].a]
        count = len(a) + len(who.ranks)
        lefts = self._scratch("b", (len(pairs), len(b), count))
        rights = self._scratch("a", (len(pairs), count, a.shape[1]))
        held = self._held(pairs[0])
        for pair, left, right in zip(pairs, lefts, rights, strict=True):
            b, a = before[pair.b], before[pair.a]
            torch.cat([b, *_matrices(held, pair.b)], 1, out=left)
            torch.cat([a, *_matrices(held, pair.a)], out=right)
        return [Stack(left=left, right=right, who=who) for left, right in zip(lefts, rights, strict=True)]

    def _held(self, pair: Pair) -> list[_Kept]:
        return [reply for reply in self._replies if pair.a in reply.parts and pair.b in reply.parts]

    def _scratch(self, side: str, shape: tuple[int, int, int]) -> Tensor:
        """Room for one side of some stacks, used again and again: new memory takes longer than filling it."""
        found = self._room.get(side)
        if found is None or found.numel() < prod(shape):
            found = self._room[side] = torch.empty(prod(shape))
        return found[: prod(shape)].view(shape)

    def _who(self, held: Sequence[_Kept], pair: Pair) -> Who | None:
        if not held:
            return None
        every = {id(reply.parts): reply.parts for reply in held}
        parts = {key: (one[pair.b].block, one[pair.a].block) for key, one in every.items()}
        key = tuple(map(id, held)), tuple((b.runs, a.runs) for b, a in parts.values())
        if key not in self._known:
            for b, a in parts.values():
                if b.local_shape[0] != b.shape[0] or a.local_shape[1] != a.shape[1]:
                    raise ValueError(f"a device held {b.local_shape} of {b.source!r}, {a.local_shape} of {a.source!r}")
            blocks = [parts[id(reply.parts)] for reply in held]
            ranks = [torch.arange(a.shape[0]) if a.indices[0] is None else a.indices[0] for _, a in blocks]
            lengths = [len(one) for one in ranks]
            steps = torch.tensor([self._scale * reply.step for reply in held])
            self._known[key] = Who(
                rank=blocks[0][1].shape[0],
                ranks=torch.cat(ranks),
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


def _matrices(held: Iterable[_Kept], name: str) -> Iterator[Tensor]:
    """Every device's part of a paired tensor, as it lies in what the device sent."""
    for reply in held:
        part, flat = reply.parts[name], reply.difference
        yield flat.as_strided(part.shape, part.strides, flat.storage_offset() + part.start)
