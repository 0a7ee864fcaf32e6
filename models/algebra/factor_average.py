"""An average that keeps, of every reply, what it says of pairs of low-rank factors: A and B of each device.

The product of averages is not the average of products, so rules that average products B·A need the factors of every
device by themselves, and nothing else: pairs stay as they were here, and everything beside them is averaged. Kept are
the differences as they came, nothing of the product's size; beyond 256 MiB they are in files that have no name, so that
memory is bounded whatever the number of clients.

As of a robust mean, each reply counts as the step that it would make alone, a·Δ/b, and with weight b.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from models.algebra.average import REMEMBERED, PartialAverage
from models.algebra.axes import Layout, Runs
from models.algebra.pairs import Pair
from models.algebra.room import Room
from models.algebra.stack import Stack, Stacks, Who
from models.algebra.submodel import Block, Submodel

_IN_MEMORY = 256 << 20  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Where a paired tensor's part of a flat difference is.

    Attributes:
        block: which part it is.
        start: place of its first number.
    """

    block: Block
    start: int


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
        self._places: OrderedDict[int, tuple[Submodel, Mapping[str, _Part]]] = OrderedDict()
        self._held_by: dict[int, Mapping[str, _Part]] = {}  # what `_Kept.parts` are, by id
        self._known: dict[object, Who] = {}
        self._of: dict[str, Who | None] = {}
        self._room = Room()
        self._scale, self._bytes, self._in_memory = 1.0, 0, in_memory

    def reset(self) -> None:
        """Forget what was added; of the memory for stacks no more stays than twice what the last round's took."""
        super().reset()
        self._replies.clear()
        self._held_by.clear()
        while len(self._places) > REMEMBERED:
            self._places.popitem(last=False)
        self._known.clear()
        self._of.clear()
        self._room.reset()
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
        self._known.clear()
        self._of.clear()
        parts, step = self._paired_in(submodel), numerator / denominator
        self._held_by[id(parts)] = parts
        self._replies.append(_Kept(parts=parts, difference=own.contiguous(), step=step, weight=denominator))
        return norm

    def _paired_in(self, submodel: Submodel) -> Mapping[str, _Part]:
        """Where a submodel has the tensors of pairs; found once for all who hold this object, which is kept with it."""
        # Longer than a round, as tiers are the same in each.
        if id(submodel) not in self._places:
            starts = accumulate(submodel.lengths, initial=0)
            found = {
                block.source: _Part(block=block, start=start)
                for start, block in zip(starts, submodel.values(), strict=False)
                if block.source in self._paired
            }
            self._places[id(submodel)] = (submodel, found)
        self._places.move_to_end(id(submodel))
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
            self._of[pair.axis] = self._who(pair)
        return self._of[pair.axis]

    def stack(self, pair: Pair, before: Mapping[str, Tensor]) -> Stack | None:
        """What the devices that held some of a pair made of it; see `stacks`. None if nobody did."""
        return None if self.who(pair) is None else next(iter(self.stacks([pair], before)))

    def stacks(self, pairs: Sequence[Pair], before: Mapping[str, Tensor]) -> Stacks:
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
        count, rank = len(who.ranks), who.rank
        rows, columns = before[pairs[0].b].shape[0], before[pairs[0].a].shape[1]
        b, a = self._room("b", (len(pairs), rows, rank)), self._room("a", (len(pairs), rank, columns))
        torch.stack([before[pair.b] for pair in pairs], out=b)
        torch.stack([before[pair.a] for pair in pairs], out=a)
        changes, right = (
            self._room("ΔB", (len(pairs), rows, count)),
            self._room("A", (len(pairs), count, columns)),
        )
        names = [pair.b for pair in pairs], [pair.a for pair in pairs]
        sides: dict[int, tuple[_Side, _Side]] = {}
        columns_of: list[Sequence[Tensor]] = []
        begin = 0
        for reply, length in zip(self._held(pairs[0]), who.lengths, strict=True):
            if (key := id(reply.parts)) not in sides:
                sides[key] = _side(reply.parts, names[0]), _side(reply.parts, names[1])
            of_b, of_a = sides[key]
            columns_of.append([one for _, several in of_b.views(reply.difference) for one in several.unbind(0)])
            runs, ranks = reply.parts[pairs[0].a].block.runs[0], who.ranks[begin : begin + length]
            begun, into = _of_ranks(a, ranks, runs), right.narrow(1, begin, length)
            for at, changed in of_a.views(reply.difference):
                torch.add(begun[at], changed, alpha=self._scale * reply.step, out=into[at])
            begin += length
        for out, several in zip(changes.unbind(0), zip(*columns_of, strict=True), strict=True):
            torch.cat(several, 1, out=out)
        return Stacks(changes=changes, right=right, b=b, a=a, who=who, room=self._room)

    def _held(self, pair: Pair) -> list[_Kept]:
        return [reply for reply in self._replies if _has(reply.parts, pair)]

    def _who(self, pair: Pair) -> Who | None:
        parts = {key: (one[pair.b].block, one[pair.a].block) for key, one in self._held_by.items() if _has(one, pair)}
        # Of all submodels: where somebody did not hold the pair is part of it.
        alike = tuple((parts[key][0].runs, parts[key][1].runs) if key in parts else None for key in self._held_by)
        if not parts or alike in self._known:
            return self._known[alike] if parts else None
        for b, a in parts.values():
            if b.local_shape[0] != b.shape[0] or a.local_shape[1] != a.shape[1]:
                raise ValueError(f"a device held {b.local_shape} of {b.source!r}, {a.local_shape} of {a.source!r}")
        held = self._held(pair)
        blocks = [parts[id(reply.parts)][1] for reply in held]
        ranks = [torch.arange(a.shape[0]) if a.indices[0] is None else a.indices[0] for a in blocks]
        lengths = [len(one) for one in ranks]
        self._known[alike] = Who(
            rank=blocks[0].shape[0],
            ranks=torch.cat(ranks),
            steps=torch.tensor([self._scale * reply.step for reply in held]).repeat_interleave(torch.tensor(lengths)),
            weights=[reply.weight for reply in held],
            lengths=lengths,
        )
        return self._known[alike]

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


def _has(parts: Mapping[str, _Part], pair: Pair) -> bool:
    return pair.a in parts and pair.b in parts


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """Where replies of one submodel have one side of some pairs.

    Attributes:
        shape: of each, (m, r) or (r, n).
        runs: (pairs, place of the first one's first number, from there to the next one's): pairs whose parts of a reply
            are equally far from one another are one tensor.
    """

    shape: tuple[int, ...]
    runs: Sequence[tuple[slice, int, int]]

    def views(self, difference: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Pairs, and what a reply says of them, (how many, *shape)."""
        strides, offset = (self.shape[1], 1), difference.storage_offset()
        for at, start, apart in self.runs:
            yield at, difference.as_strided((at.stop - at.start, *self.shape), (apart, *strides), offset + start)


def _side(parts: Mapping[str, _Part], names: Sequence[str]) -> _Side:
    first = parts[names[0]].block
    runs: list[tuple[slice, int, int]] = []
    for place, name in enumerate(names):
        start = parts[name].start
        if runs:
            at, before, apart = runs[-1]
            count = place - at.start
            if count == 1 or start - before == count * apart:
                runs[-1] = slice(at.start, place + 1), before, (start - before if count == 1 else apart)
                continue
        runs.append((slice(place, place + 1), start, 0))
    return _Side(shape=first.local_shape, runs=runs)


def _of_ranks(a: Tensor, ranks: Tensor, runs: Runs) -> Tensor:
    """Some ranks of what devices began with, (pairs, r, n): as it lies there, where they follow one another."""
    return a.narrow(1, *runs[0]) if len(runs) == 1 else a.index_select(1, ranks)
