"""The bases that this process holds: frozen tensors by the digest of their contents.

Networks that are built on a base share its tensors, so a process has each of them once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from hashlib import sha256

from torch import Tensor

_KEPT = 2
_known: OrderedDict[str, Mapping[str, Tensor]] = OrderedDict()


class UnknownBase(ValueError):
    """A base is asked for that this process does not hold."""


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
    _known[name] = tensors
    _known.move_to_end(name)
    while len(_known) > _KEPT:
        _known.popitem(last=False)
    return name


def holds(name: str) -> bool:
    """Whether this process holds a base."""
    return name in _known


def base(name: str) -> Mapping[str, Tensor]:
    """A base by its digest.

    Raises:
        UnknownBase: this process does not hold it.
    """
    if name not in _known:
        raise UnknownBase(f"no base {name[:12]} here: who builds this network reads its base first")
    _known.move_to_end(name)
    return _known[name]
