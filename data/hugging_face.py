"""Data sets that the library `datasets` has saved on disk: `dataset = "hf:beans"`, a folder below the data root.

What is read is what `save_to_disk` wrote, Arrow's files: nothing is downloaded, and no code of a data set runs. Inputs
are pictures, texts or arrays of numbers. The columns are found by their types, or named:
`hf:beans(input=image, label=labels, client=photographer)`. Of several parts `train` is for training and `test`, or else
`validation`, for testing.
"""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from data.arrays import inputs_in
from data.call_text import parse_call
from data.data_error import DataError
from data.disk_cache import Key, array
from data.examples import Examples, Task
from data.files import Files
from data.input_facts import InputFacts, SourceFacts
from data.labelled_texts import LabelledText
from data.matching import in_order
from data.names import name_of, names_of, plain
from data.on_demand import OnDemand
from data.picture import DEEP, LARGE, header
from data.pil_items import PictureDecoder, shape_of
from data.pooled import VALUES, facts_of, summary_of
from data.saved_columns import PICTURE, TEXT, Opened, open_saved
from data.stored import tensor_over
from data.summary import Summary
from data.table_file import BadTable
from data.targets import targets_in
from data.texts import Texts
from models.errors import SettingError

_ROLES = ("input", "label", "client")
_NOTHING = 4  # beside what a header says


class HuggingFace:
    """A data set of the library `datasets`.

    Args:
        place: its folder, below the data root, and maybe its columns in parentheses.
    """

    images = True
    owned = True
    local = True

    def __init__(self, place: str) -> None:
        self.name = f"hf:{place}"
        folder, bracket, rest = place.partition("(")
        try:
            told = parse_call(f"columns({rest}").arguments if bracket else {}
            if unknown := [role for role in told if role not in _ROLES]:
                raise ValueError(f"{', '.join(_ROLES)}, not {', '.join(unknown)}")
        except ValueError as error:
            allowed = f"hf:FOLDER, or hf:FOLDER(input=…, label=…, client=…): {error}"
            raise SettingError("dataset", self.name, allowed) from None
        self._folder, self._told = folder.strip(), {role: str(column) for role, column in told.items()}
        self._texts = Texts(self.name, self._rows)

    def provisional(self, files: Files) -> Task:
        """Two classes, and pictures as the settings say; it is not known yet what is there."""
        return Task(2, shape_of(files), kind=files.task)

    def inspect(self, files: Files) -> Task:
        """Return classes and the shape of an input; reads labels, and arrays of numbers.

        Raises:
            DataError: as `read`.
        """
        found = self._opened(files)
        if found.kind == TEXT:
            return self._texts.inspect(files)
        shape = shape_of(files) if found.kind == PICTURE else tuple(self._values(found, "train").shape[1:])
        return Task(len(self._classes(files)), shape, kind=files.task)

    def facts(self, files: Files) -> SourceFacts:
        """Classes as the data set names them."""
        if self._opened(files).kind == TEXT:
            return self._texts.facts(files)
        return SourceFacts(classes=self._classes(files), task=files.task, fit=files.image_fit)

    def summarise(self, files: Files) -> Summary:
        """Counts of the classes and, of values, their sums; of texts how often words occur."""
        if self._opened(files).kind == TEXT:
            return self._texts.summarise(files)
        shape = self.inspect(files).input_shape
        return summary_of(self.read(files)[0], self._classes(files), shape, texts=False)

    def facts_from(self, summary: Summary, files: Files) -> InputFacts:
        """The facts of all examples together.

        Raises:
            ValueError: they do not make a task.
        """
        if VALUES not in summary.sums:
            return self._texts.facts_from(summary, files)
        return facts_of(
            summary, self.name, SourceFacts(fit=files.image_fit, task=files.task), vocabulary=0, images=True
        )

    def read(self, files: Files) -> tuple[Examples, Examples]:
        """Return the training and the test examples; pictures are decoded on demand.

        Raises:
            DataError: no such data set, columns that are not there, or a row that cannot be used; names it.
        """
        found = self._opened(files)
        if found.kind == TEXT:
            return self._texts.read(files)
        return self._part(found, files, "train"), self._part(found, files, "test")

    def _part(self, found: Opened, files: Files, part: str) -> Examples:
        labels, owners = self._labels(found, files, part), None
        if (people := found.column(part, "client")) is not None:
            numbers = {
                name: number
                for number, name in enumerate(sorted({str(one) for one in found.column("train", "client") or []}))
            }
            owners = torch.tensor([numbers.get(str(one), -1) for one in people], dtype=torch.int64)
        if found.kind == PICTURE:
            return self._pictures(found, files, part, labels, owners)
        return Examples(self._values(found, part), labels, owners)

    def _pictures(
        self, found: Opened, files: Files, part: str, labels: torch.Tensor, owners: torch.Tensor | None
    ) -> Examples:
        column = found.columns["input"]
        rows = found.parts[part].select_columns([column])  # a row of all columns would decode the others, too

        def content(row: int) -> bytes:
            return (rows[row][column] or {}).get("bytes") or b""

        def name(row: int) -> str:
            return f"{self.name}, {part}, column {column}, row {row}"

        def headers() -> NDArray[np.uint8]:
            found = (content(row) for row in range(len(rows)))
            said = (header(BytesIO(one)) if one else _NOTHING for one in found)
            return np.fromiter(said, dtype=np.uint8, count=len(rows))

        key = Key.of((self.name, str(files.root), part, shape_of(files), files.image_fit), found.files)
        flags = array(key, "headers", headers, len(rows))
        for flag, why in ((_NOTHING, "has no picture in it"), (LARGE, "has too many pixels")):
            if (wrong := np.flatnonzero(flags & flag)).size:
                self._refuse(files, f"{name(int(wrong[0]))} {why}")
        decode = PictureDecoder(files, bool((flags & DEEP).any()), content, name)
        return OnDemand(range(len(rows)), decode, labels, owners, key=key)

    def _values(self, found: Opened, part: str) -> torch.Tensor:
        rows, column = found.parts[part], found.columns["input"]
        where = f"{self.name}, {part}, column {column}"
        if not len(rows):
            return self._values(found, "train")[:0]
        try:
            values = inputs_in(np.asarray(rows.select_columns([column]).with_format("numpy")[:][column]))
        except (BadTable, ValueError, TypeError) as error:
            self._refuse(found.settings, f"{where}: {error}")
        if values.dtype != np.uint8 and not (finite := np.isfinite(values).reshape(len(values), -1).all(1)).all():
            self._refuse(found.settings, f"{where}, row {int(np.flatnonzero(~finite)[0])}: a value is not finite")
        return tensor_over(values)

    def _labels(self, found: Opened, files: Files, part: str) -> torch.Tensor:
        told = found.column(part, "label") or []
        where = f"{self.name}, {part}, column {found.columns['label']}"
        if files.task != "classification":
            if not told:  # as many outputs
                return self._labels(found, files, "train")[:0]
            try:
                return targets_in(told, files.task, where)
            except BadTable as error:
                self._refuse(files, str(error))
        names = self._classes(files)
        if (classes := found.class_names) is not None:
            for row, one in enumerate(told):
                if one is None or not 0 <= one < len(classes):
                    self._refuse(files, f"{where}, row {row}: {one} is no class")
            return torch.tensor(told, dtype=torch.int64)
        numbered = {name: number for number, name in enumerate(names)}
        return torch.tensor([numbered[name_of(one)] for one in told], dtype=torch.int64)

    def _classes(self, files: Files) -> tuple[str, ...]:
        found = self._opened(files)
        if files.task != "classification":
            return tuple(map(str, range(self._labels(found, files, "train").shape[1])))
        if found.class_names is not None:
            return tuple(map(plain, found.class_names))
        names = set[str]()
        for part in ("train", "test"):
            labels, where = found.column(part, "label") or [], f"{self.name}, {part}, column {found.columns['label']}"
            if None in labels:
                self._refuse(files, f"{where}, row {labels.index(None)}: there is no label")
            try:
                names.update(names_of(labels, where))
            except ValueError as error:
                self._refuse(files, str(error))
        return in_order(names)

    def _rows(self, files: Files) -> tuple[list[LabelledText], list[LabelledText]]:
        """Texts with their labels' names, of both parts."""
        return _texts(self, self._opened(files), files)

    def texts(self, found: Opened, files: Files) -> tuple[list[LabelledText], list[LabelledText]]:
        """Read the texts of both parts, each with its label's name.

        Raises:
            DataError: a row that cannot be used; names it.
        """
        if files.task != "classification":
            self._refuse(files, f"{self.name}: texts have a class each, and `task` is {files.task!r}")
        names, parts = self._classes(files), []
        for part in ("train", "test"):
            texts, labels = found.column(part, "input") or [], self._labels(found, files, part).tolist()
            people = found.column(part, "client") or [""] * len(texts)
            for row, text in enumerate(texts):
                if not (text or "").strip():
                    self._refuse(files, f"{self.name}, {part}, column {found.columns['input']}, row {row}: no text")
            parts.append(
                [
                    LabelledText(text, names[label], str(who))
                    for text, label, who in zip(texts, labels, people, strict=True)
                ]
            )
        return parts[0], parts[1]

    def _opened(self, files: Files) -> Opened:
        inside = files.root.resolve()
        folder = (files.root / self._folder).resolve()
        if not self._folder or not folder.is_relative_to(inside):
            self._refuse(files, f"{self._folder!r}: allowed is a folder below data-root")
        saved = tuple(sorted(file for file in folder.rglob("*") if file.is_file()))
        if not saved:
            self._refuse(files, f"{self._folder!r}: there is no such folder, or nothing in it")
        try:
            stamps = tuple(file.stat().st_mtime_ns for file in saved)
            return open_saved(folder, saved, stamps, tuple(self._told.items()), files)
        except (BadTable, OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, SettingError):
                raise
            self._refuse(files, f"{self._folder}: {' '.join(str(error).split())[:300] or type(error).__name__}")

    def _refuse(self, files: Files, what: str) -> NoReturn:
        raise DataError(files.root, f"a data set that can be used: {what}", "its data set cannot be used")


@lru_cache(maxsize=2)
def _texts(source: HuggingFace, found: Opened, files: Files) -> tuple[list[LabelledText], list[LabelledText]]:
    """Rows of what is open, which are asked for several times as a run begins."""
    return source.texts(found, files)
