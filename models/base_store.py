"""The bases that this process holds: frozen tensors by the digest of their contents.

Networks that are built on a base share its tensors, so a process has each of them once. A base may stay in its file
(`models.networks.bases.BaseFile`): then a tensor is here from the first time that somebody wants it as it is, and one
that is only wanted in fewer bits is here in those alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from hashlib import sha256
from typing import Protocol, TypeVar

from torch import Tensor

_KEPT = 2
_known: OrderedDict[str, Base] = OrderedDict()
T = TypeVar("T")


class UnknownBase(ValueError):
    """A base is asked for that this process does not hold."""


class Base(Mapping[str, Tensor]):
    """The tensors of a base by name, of which nothing may be changed.

    Args:
        source: where they are: in memory, or read anew whenever they are asked for.
    """

    def __init__(self, source: Mapping[str, Tensor]) -> None:
        self._source = source
        self._held: dict[str, Tensor] = {}
        self._made: dict[tuple[str, Hashable], object] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._held:
            self._held[name] = self._read(name)
        return self._held[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def __len__(self) -> int:
        return len(self._source)

    def made(self, name: str, form: Hashable, make: Callable[[Tensor], T]) -> T:
        """What is made of a tensor, once for every form; the tensor itself is not kept for it."""
        key = name, form
        if key not in self._made:
            self._made[key] = make(self._held[name] if name in self._held else self._read(name))
        return self._made[key]  # type: ignore[return-value]

    def _read(self, name: str) -> Tensor:
        try:
            return self._source[name]
        except ValueError:  # its file is another one by now; who asks next looks for the base anew
            for known in [known for known, held in _known.items() if held is self]:
                del _known[known]
            raise


class Block(Protocol):
    """What a part holds of a tensor."""

    @property
    def runs(self) -> Hashable:
        """Which coordinates."""

    def gather(self, source: Tensor) -> Tensor:
        """Cut it out."""


class Part(Mapping[str, Tensor]):
    """What a part holds of a base, each tensor once for all parts that hold the same of it.

    Args:
        whole: the base.
        blocks: what is held of its tensors; those that are not named are whole.
    """

    def __init__(self, whole: Base, blocks: Mapping[str, Block]) -> None:
        self._whole, self._blocks = whole, blocks

    def __getitem__(self, name: str) -> Tensor:
        block = self._blocks.get(name)
        if block is None:
            return self._whole[name]
        return self._whole.made(name, block.runs, lambda tensor: block.gather(tensor).contiguous())

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole)

    def __len__(self) -> int:
        return len(self._whole)

    def made(self, name: str, form: str, make: Callable[[Tensor], T]) -> T:
        """What is made of a tensor as it is held; see `Base.made`."""
        block = self._blocks.get(name)
        if block is None:
            return self._whole.made(name, form, make)
        return self._whole.made(name, (block.runs, form), lambda tensor: make(block.gather(tensor).contiguous()))


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes, types and values, in order of the names."""
    found = sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        found.update(tensor.numpy().data if tensor.numel() else b"")
    return found.hexdigest()


def hold(tensors: Mapping[str, Tensor]) -> str:
    """Keep a base, of which nothing may be changed from now on; return its digest."""
    name = digest(tensors)
    if name not in _known:
        _known[name] = Base(tensors)
    _known.move_to_end(name)
    while len(_known) > _KEPT:
        _known.popitem(last=False)
    return name


def holds(name: str) -> bool:
    """Whether this process holds a base."""
    return name in _known


def base(name: str) -> Base:
    """A base by its digest.

    Raises:
        UnknownBase: this process does not hold it.
    """
    if name not in _known:
        raise UnknownBase(f"no base {name[:12]} here: who builds this network reads its base first")
    _known.move_to_end(name)
    return _known[name]
