"""An average that keeps, of every reply, what it says of pairs of low-rank factors: A and B of each device.

The product of averages is not the average of products, so rules that average products B·A need the factors of every
device by themselves, and nothing else: pairs stay as they were here, and everything beside them is averaged. Kept are
the differences as they came, nothing of the product's size; beyond 256 MiB they are in files that have no name, so that
memory is bounded whatever the number of clients.

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
    places: Mapping[str, tuple[int, Block]]  # paired tensor → which piece is its part of the difference, and its block
    pieces: Sequence[Tensor]  # flat
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
        self._places: dict[int, tuple[Submodel, Mapping[str, tuple[int, Block]]]] = {}
        self._known: dict[object, Who] = {}
        self._of: dict[str, Who | None] = {}
        self._room: dict[tuple[int, str], Tensor] = {}
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
        pieces, places = torch.split(own, submodel.lengths), self._paired_in(submodel)
        self._replies.append(_Kept(places=places, pieces=pieces, step=numerator / denominator, weight=denominator))
        return norm

    def _paired_in(self, submodel: Submodel) -> Mapping[str, tuple[int, Block]]:
        """Where a submodel has the tensors of pairs; found once for all who hold this object, which is kept with it."""
        if id(submodel) not in self._places:
            blocks = enumerate(submodel.values())
            found = {block.source: (i, block) for i, block in blocks if block.source in self._paired}
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
            self._of[pair.axis] = self._who(held, [(r.places[pair.b][1], r.places[pair.a][1]) for r in held])
        return self._of[pair.axis]

    def stack(self, pair: Pair, before: Mapping[str, Tensor], place: int = 0) -> Stack | None:
        """What the devices that held some of a pair made of it, in the order in which they were added; None if nobody.

        Args:
            pair: one of the layout's.
            before: the state that the differences refer to.
            place: where it stands: until the next one that is asked for there.

        Raises:
            ValueError: as `who`.
        """
        if (who := self.who(pair)) is None:
            return None
        held = self._held(pair)
        lefts, rights = list[Tensor](), list[Tensor]()
        for reply in held:
            (i, block), (j, _) = reply.places[pair.b], reply.places[pair.a]
            lefts.append(reply.pieces[i].view(block.local_shape))
            rights.append(reply.pieces[j])
        b, a = before[pair.b], before[pair.a]
        count = len(a) + len(who.ranks)
        left, right = self._scratch((place, "b"), len(b), count), self._scratch((place, "a"), count, a.shape[1])
        torch.cat([b, *lefts], 1, out=left)
        torch.cat([a.flatten(), *rights], out=right.view(-1))
        return Stack(left=left, right=right, who=who)

    def _held(self, pair: Pair) -> list[_Kept]:
        return [reply for reply in self._replies if pair.a in reply.places and pair.b in reply.places]

    def _scratch(self, place: tuple[int, str], rows: int, columns: int) -> Tensor:
        """Room for one side of a stack, used again and again: new memory takes longer than filling it."""
        found = self._room.get(place)
        if found is None or found.numel() < rows * columns:
            found = self._room[place] = torch.empty(rows * columns)
        return found[: rows * columns].view(rows, columns)

    def _who(self, held: Sequence[_Kept], blocks: Sequence[tuple[Block, Block]]) -> Who | None:
        if not held:
            return None
        key = tuple((id(reply), b.runs, a.runs) for reply, (b, a) in zip(held, blocks, strict=True))
        if key not in self._known:
            for b, a in blocks:
                if b.local_shape[0] != b.shape[0] or a.local_shape[1] != a.shape[1]:
                    raise ValueError(f"a device held {b.local_shape} of {b.source!r}, {a.local_shape} of {a.source!r}")
            every = [torch.arange(a.shape[0]) if a.indices[0] is None else a.indices[0] for _, a in blocks]
            lengths = [len(ranks) for ranks in every]
            steps = torch.tensor([self._scale * reply.step for reply in held])
            self._known[key] = Who(
                rank=blocks[0][1].shape[0],
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
