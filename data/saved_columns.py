"""What the library `datasets` has saved in a folder: its parts, and which column is what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from data.files import Files
from data.table_file import BadTable

_CACHED, _SAVED = "dataset_info.json", "state.json"  # what the library writes beside the files of either kind
PICTURE, TEXT, NUMBERS = "picture", "text", "numbers"
_TRAIN, _TEST = ("train", "training"), ("test", "validation", "valid")
_LABELS, _TEXTS = ("label", "labels", "target", "class", "y"), ("text", "sentence", "content")


class Opened:
    """A data set that is open.

    Args:
        parts: "train" and "test", as the library has them.
        told: role → column, as far as it was said.
        saved: the files.
        files: the settings.

    Attributes:
        parts: pictures in them are not decoded.
        columns: role ("input", "label", "client") → column.
        kind: of an input: `PICTURE`, `TEXT` or `NUMBERS`.
        class_names: of labels that have some.
    """

    def __init__(
        self, parts: Mapping[str, Any], told: Mapping[str, str], saved: tuple[Path, ...], files: Files
    ) -> None:
        features = parts["train"].features
        self.files, self.settings = saved, files
        self.columns = _columns(features, told)
        self.kind = _kind(features[self.columns["input"]])
        label = features[self.columns["label"]]
        names = getattr(label, "names", None)
        self.class_names: tuple[str, ...] | None = tuple(names) if names else None
        if self.kind == PICTURE:  # decoded by us: by the same library as all others, and with its bounds
            import datasets

            column = self.columns["input"]
            parts = {name: part.cast_column(column, datasets.Image(decode=False)) for name, part in parts.items()}
        self.parts = parts
        self._read: dict[tuple[str, str], list[Any]] = {}

    def column(self, part: str, role: str) -> list[Any] | None:
        """The values of a column, as Python has them; None where there is none."""
        if role not in self.columns:
            return None
        if (part, role) not in self._read:
            name = self.columns[role]
            self._read[part, role] = list(self.parts[part].select_columns([name])[:][name])
        return self._read[part, role]


@lru_cache(maxsize=2)
def open_saved(
    folder: Path, saved: tuple[Path, ...], stamps: tuple[int, ...], told: tuple[tuple[str, str], ...], files: Files
) -> Opened:
    """Open a data set, once as long as nothing changes.

    Args:
        folder: where it was saved.
        saved: the files in it.
        stamps: when they were changed.
        told: role and column, as far as it was said.
        files: the settings.

    Raises:
        BadTable: no part to train on, an empty one, or columns that are not there; the library is missing.
        OSError, ValueError, KeyError, TypeError: the library cannot read it.
    """
    del stamps  # what is kept is of these times
    try:
        import datasets
    except ImportError:
        raise BadTable("the library datasets is needed: pip install datasets") from None
    cached = [file.parent for file in saved if file.name == _CACHED]
    if cached and not any(file.name == _SAVED for file in saved):
        found = _of_cache(folder, cached)
    else:
        found = datasets.load_from_disk(str(folder))
    if not isinstance(found, Mapping):
        found = {"train": found}
    train = next((found[name] for name in _TRAIN if name in found), None)
    if train is None and len(found) == 1:
        train = next(iter(found.values()))
    if train is None:
        raise BadTable(f"a part called train is needed; there are {', '.join(found)}")
    if not len(train):
        raise BadTable("its training part has no examples")
    test = next((found[name] for name in _TEST if name in found), train.select([]))
    return Opened({"train": train, "test": test}, dict(told), saved, files)


def _of_cache(folder: Path, cached: list[Path]) -> Mapping[str, Any]:
    """The parts of a data set in the library's cache, where `load_dataset` has prepared it."""
    import datasets

    if len(cached) > 1:
        there = ", ".join(str(one.relative_to(folder)) for one in cached[:5])
        raise BadTable(f"{len(cached)} versions are in the cache, and the folder of one is wanted: {there}")
    (place,) = cached
    parts = json.loads((place / _CACHED).read_text(encoding="utf-8"))["splits"]
    found = {}
    for name in parts:
        files = sorted([*place.glob(f"*-{name}.arrow"), *place.glob(f"*-{name}-?????-of-?????.arrow")])
        if files:
            found[name] = datasets.concatenate_datasets([datasets.Dataset.from_file(str(file)) for file in files])
    return found


def _columns(features: Mapping[str, Any], told: Mapping[str, str]) -> dict[str, str]:
    """Role → column: as told, else by type and name.

    Raises:
        BadTable: it cannot be told which one; says how to name it.
    """
    for role, column in told.items():
        if column not in features:
            raise BadTable(f"{role}={column}: there is no such column; there are {', '.join(features)}")
    found = dict(told)
    if "label" not in found:
        classes = [name for name, one in features.items() if getattr(one, "names", None)]
        known = [name for name in _LABELS if name in features]
        found["label"] = _only("label", classes if len(classes) == 1 else known[:1], features)
    if "input" not in found:
        others = {name: _kind(one) for name, one in features.items() if name not in found.values()}
        for kind in (PICTURE, TEXT, NUMBERS):
            names = [name for name, one in others.items() if one == kind]
            usual = [name for name in _TEXTS if name in names]
            if names:
                found["input"] = _only("input", usual[:1] or names, features)
                break
        else:
            raise BadTable(f"no column of pictures, texts or arrays; there are {', '.join(features)}")
    return found


def _only(role: str, names: list[str], features: Mapping[str, Any]) -> str:
    if len(names) != 1:
        raise BadTable(f"say which column is the {role}, hf:FOLDER({role}=…); there are {', '.join(features)}")
    return names[0]


def _kind(feature: Any) -> str:
    name = type(feature).__name__
    if name == "Image":
        return PICTURE
    if name == "Value" and str(feature.dtype) in ("string", "large_string"):
        return TEXT
    return NUMBERS if name in ("List", "LargeList", "Sequence") or name.startswith("Array") else ""
