"""What the rows of a model's head stand for: the names of its classes, and the same rows in another order of them.

Files do not say which class a row is. A run folder does, and so does a file of `flotilla export`; where both sides have
names, rows are taken by name. Names that are nothing but the numbers of the rows are none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.algebra.axes import Along, Axis, Kind, TensorLayout, axes_along
from server_app.folder.model_file import MODEL
from server_app.folder.tiers_file import KEY, TIERS

_NAMED = 3  # classes that differ, in an error


@dataclass(frozen=True, slots=True)
class Rows:
    """What the rows of a head are called here, and in a file; () where nobody says."""

    here: tuple[str, ...]
    there: tuple[str, ...]

    @staticmethod
    def of(classes: Sequence[str], place: Path) -> Rows:
        """Compare.

        Args:
            classes: names here.
            place: of the file: the folder of a run, its model, or an exported file.
        """
        return Rows(_known(classes), _names_at(place))

    @property
    def others(self) -> bool:
        """Whether the file's classes are known to be others."""
        return bool(self.here and self.there) and sorted(self.here) != sorted(self.there)

    @property
    def order(self) -> tuple[int, ...]:
        """Of every class here its row there; () where the rows are the same, or nobody knows better."""
        if not self.here or not self.there or self.others or self.here == self.there:
            return ()
        places = {name: n for n, name in enumerate(self.there)}
        return tuple(places[name] for name in self.here)

    def difference(self) -> str:
        """The first rows that stand for something else."""
        both = zip(self.there, self.here, strict=False)
        rows = [f"{n} is {old!r} there, {new!r} here" for n, (old, new) in enumerate(both) if old != new]
        more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
        return f"other classes: {', '.join(rows[:_NAMED])}{more}"


def _names_at(place: Path) -> tuple[str, ...]:
    folder = place if place.is_dir() else place.parent
    try:
        with safe_open(folder / TIERS if place.is_dir() or place.name == MODEL else place, framework="pt") as opened:
            told = json.loads((opened.metadata() or {}).get(KEY, "null"))
        return _known(tuple(map(str, told["inputs"]["classes"])))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return ()


def _known(names: Sequence[str]) -> tuple[str, ...]:
    """Names that say something: not those that are the numbers of their rows."""
    return () if list(names) == [str(n) for n in range(len(names))] else tuple(names)


def reordered(tensor: Tensor, declared: TensorLayout, axes: Mapping[str, Axis], order: Sequence[int]) -> Tensor:
    """A tensor with its classes in another order.

    Args:
        tensor: at full width.
        declared: where it stands.
        axes: of the network.
        order: as `Rows.order` gives it; () leaves it as it is.

    Raises:
        ValueError: it has other classes beside something else in one dimension, or another number of them.
    """
    rows = torch.tensor(list(order))
    for place, dim in enumerate(declared.dims if order else ()):
        named = [axis for axis in axes_along([dim]) if axes[axis].kind is Kind.CLASS]
        if not named:
            continue
        if not isinstance(dim, Along) or axes[dim.axis].size != len(order):
            raise ValueError("its classes are counted in another way")
        shape = tensor.shape
        split = tensor.reshape(*shape[:place], dim.outer, len(order), dim.inner, *shape[place + 1 :])
        tensor = split.index_select(place + 1, rows).reshape(shape)
    return tensor
