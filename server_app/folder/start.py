"""What training starts from, where that is not drawn: tensors of a file, or the model of a finished run.

Starting is not resuming: a start is a new run, from round 1, of any configuration whose network has the same tensors.
Files are safetensors and nothing else. Names and shapes must agree; a head for other classes can be left out, and is
drawn like a new network's. Where both sides know what their classes are called, the rows of a head are taken by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.algebra.axes import Layout, heads
from models.errors import SettingError
from server_app.folder.class_names import Rows, reordered
from server_app.folder.model_file import MODEL
from server_app.folder.run_folder import SUMMARY
from server_app.folder.staged_file import sha256_of
from server_app.folder.tiers_file import TIERS, read_tiers

_NAMED = 4  # tensors that an error names, of each kind of difference
_MOMENTS = "moments"  # of static batch norm, in a file of `flotilla export`: no tensor of the network


@dataclass(frozen=True, kw_only=True)
class Start:
    """A file that fits a network.

    Attributes:
        file: where the tensors are.
        taken: names of the tensors that come from it.
        drawn: names of the tensors that are drawn instead.
        layout: of the network.
        order: of every class its row in the file; () where it is the same.
    """

    file: Path
    taken: tuple[str, ...]
    drawn: tuple[str, ...]
    layout: Layout
    order: tuple[int, ...] = ()

    def load_into(self, state: Mapping[str, Tensor]) -> str:
        """Copy the tensors into a state of the network, and say so in one line.

        Raises:
            SettingError: (key start) a value that is not finite.
        """
        by_name = heads(self.layout) if self.order else frozenset[str]()
        with safe_open(self.file, framework="pt") as opened:
            for name in self.taken:
                tensor = opened.get_tensor(name).to(state[name].dtype)
                if not bool(torch.isfinite(tensor).all()):
                    raise SettingError("start", str(self.file), f"a file of finite values ({name} has others)")
                if name in by_name:
                    tensor = reordered(tensor, self.layout.tensors[name], self.layout.axes, self.order)
                state[name].copy_(tensor)
        rest = f", {len(self.drawn)} drawn: {_listed(self.drawn)}" if self.drawn else ""
        order = ", classes by their names, which stand in another order there" if self.order else ""
        return f"starting from {self.file}: {len(self.taken)} tensors{rest}{order}"


def found_start(place: str, layout: Layout, *, new_heads: bool, classes: Sequence[str] = ()) -> Start:
    """Hold a file against a network; reads names and shapes, no values.

    Args:
        place: a .safetensors file, or the folder of a finished run.
        layout: of the network's whole state.
        new_heads: whether tensors that count classes are drawn anew where the file has others or none.
        classes: names of the network's, as far as they are known.

    Raises:
        SettingError: (key start) no such file, damaged, or of another network or other classes; names what differs.
    """
    path = Path(place).expanduser()
    file = _model_of(path) if path.is_dir() else path
    if file.suffix != ".safetensors" or not file.is_file():
        raise SettingError("start", place, "a .safetensors file, or the folder of a finished run: there is none")
    try:
        with safe_open(file, framework="pt") as opened:
            shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise SettingError("start", place, f"a readable .safetensors file ({' '.join(str(error).split())})") from None
    shapes = {name: shape for name, shape in shapes.items() if name not in _clusters(path, shapes) and name != _MOMENTS}
    wanted = layout.shapes
    counting = heads(layout)
    rows = Rows.of(classes, path)
    drawn = {name for name in counting if shapes.get(name) != wanted[name] or rows.others} if new_heads else set()
    missing = [name for name in wanted if name not in shapes and name not in drawn]
    unknown = [name for name in shapes if name not in wanted]
    other = [name for name in wanted if name in shapes and shapes[name] != wanted[name] and name not in drawn]
    if not missing and not unknown and not other and (new_heads or not rows.others):
        taken = tuple(name for name in wanted if name not in drawn)
        return Start(file=file, taken=taken, drawn=tuple(sorted(drawn)), layout=layout, order=rows.order)
    differs = [f"{name} {list(shapes[name])} there, {list(wanted[name])} here" for name in other]
    said = [
        f"{words} {_listed(names)}"
        for words, names in (("it lacks", missing), ("not of this network:", unknown), ("of other shapes:", differs))
        if names
    ]
    if rows.others and not other:
        said.append(rows.difference())
    if not new_heads and not unknown and {*missing, *other} <= counting:
        said.append("start-new-heads = true draws these anew")
    raise SettingError("start", place, f"tensors of this network; {'; '.join(said)}")


def _model_of(folder: Path) -> Path:
    """The model of a finished run, as it was when the run ended."""
    wanted = "the folder of a finished run"
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        status, model = summary["status"], summary["model"]
        if status == "finished" and sha256_of(folder / MODEL) != model["sha256"]:
            raise SettingError("start", str(folder), f"{wanted}: {MODEL} is damaged, or missing")
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, SettingError):
            raise
        raise SettingError("start", str(folder), f"{wanted} ({type(error).__name__}: {error})") from None
    if status != "finished":
        raise SettingError("start", str(folder), f"{wanted}: this one is {status} (`--resume` goes on with it)")
    return folder / MODEL


def _clusters(path: Path, names: Iterable[str]) -> frozenset[str]:
    """Names of the clusters' own tensors, which stand beside those of the main one in a run's model."""
    try:
        records = read_tiers(path / TIERS)[0] if path.is_dir() else None
    except (OSError, ValueError):
        records = None
    starts = tuple(f"cluster{number}/" for number in (records.clusters if records else ()))
    return frozenset(name for name in names if starts and name.startswith(starts))


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + rest
