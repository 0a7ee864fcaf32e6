"""Tables: `dataset = "csv:heart.csv"` or `"parquet:sites/*.parquet"`, files below the data root.

A file, a pattern or a folder. Of several files those whose name begins with the word "test" are the test part; the
others are for training, each from a site of its own unless `table-clients` names a column that says who a row is from.
What is to be predicted is the last column, or what `table-target` names. What the columns are is decided from the
training rows (`data.columns`): on the server, or by sums over the rows of all devices, which say no row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from data.channel_sums import moments
from data.columns import MOST_FEATURES, Columns, ColumnSums, sums_of
from data.examples import Examples, Task
from data.files import Files
from data.input_facts import InputFacts, SourceFacts
from data.matching import as_data_error, in_order
from data.names import plain
from data.summary import Summary
from data.table_file import BadTable, numbers, texts
from data.table_parts import Part, parts_of

CLASSES_OF = "classification"
_CLASSES, _TARGETS, _ROWS = "class", "target", "rows"
_MOST_CLASSES = 1000
_COLUMN, _TEXT = "column ", "text of "


class Tables:
    """Tables of one format.

    Args:
        format: "csv" or "parquet".
        place: a file, a pattern or a folder, below the data root.
    """

    images = False
    owned = True
    local = True

    def __init__(self, format: str, place: str) -> None:
        self.name, self._format, self._place = f"{format}:{place}", format, place

    def provisional(self, files: Files) -> Task:
        """Two classes and one feature."""
        targets = len(files.table_target.split(","))
        return Task(2 if files.task == CLASSES_OF else targets, (1,), kind=files.task)

    def inspect(self, files: Files) -> Task:
        """Return the classes and the number of features; reads the tables."""
        return Task(len(self._classes(files)), (len(self._columns(files).features),), kind=files.task)

    def facts(self, files: Files) -> SourceFacts:
        """Names of the classes, and what the columns are."""
        return SourceFacts(classes=self._classes(files), task=files.task, details=self._columns(files).to_json())

    def read(self, files: Files) -> tuple[Examples, Examples]:
        """Return the training rows and the test rows; owners are sites, or what the column of clients says.

        Raises:
            DataError: no such files, or one that cannot be read; a column that is missing or holds something else, a
                row without a class; names file and row.
        """
        train, test = self._parts(files)
        return self._examples(train, files), self._examples(test, files)

    def summarise(self, files: Files) -> Summary:
        """Sums and counts of every column over the training rows."""
        train, _ = self._parts(files)
        if not len(train):  # a server that has rows to test on only
            return Summary()
        with as_data_error(files.root):
            counts: dict[str, Mapping[str, int]] = {_TARGETS: dict.fromkeys(self._columns(files).targets, 1)}
            sums: dict[str, tuple[float, ...]] = {_ROWS: (float(len(train)),)}
            if files.task == CLASSES_OF:
                counts[_CLASSES] = _count(self._labels(train, files))
            else:
                counts[_CLASSES] = dict.fromkeys(self._columns(files).targets, len(train))
                numbers = self._numbers(train, files)
                sums[_TARGETS] = (*numbers.sum(0).tolist(), *np.square(numbers).sum(0).tolist())
            for name, one in self._sums(train, files).items():
                sums[_COLUMN + name] = (float(one.rows), float(one.missing), one.total, one.squares)
                if one.counts:
                    counts[_TEXT + name] = one.counts
            return Summary(counts=counts, sums=sums)

    def facts_from(self, summary: Summary, files: Files) -> InputFacts:
        """What the columns are, over everybody's rows.

        Raises:
            ValueError: they are no task.
        """
        sums, (rows,) = {}, summary.sums.get(_ROWS, (0.0,))
        targets = tuple(sorted(summary.counts.get(_TARGETS, {})))
        if len(targets) > 1 and not files.table_target:
            raise ValueError(
                f"the last columns differ, {', '.join(targets)[:200]}: `table-target` names what is predicted"
            )
        for name, told in summary.sums.items():
            if name in (_ROWS, _TARGETS):
                continue
            if not name.startswith(_COLUMN) or len(told) != 4:
                raise ValueError(f"sums of {name[:40]!r} instead of columns")
            column, (count, missing, total, squares) = name.removeprefix(_COLUMN), told
            counts = dict(summary.counts.get(_TEXT + column, {}))
            sums[column] = ColumnSums(
                rows=int(count), missing=int(missing), total=total, squares=squares, counts=counts
            )
        elsewhere = [name for name, one in sums.items() if one.rows != rows]
        if elsewhere:
            raise ValueError(f"column {elsewhere[0]} is there for {sums[elsewhere[0]].rows} of {rows:g} rows")
        if wrong := [name for name, one in sums.items() if not 0 <= one.missing <= one.rows]:
            raise ValueError(f"column {wrong[0]} is missing in {sums[wrong[0]].missing} of {rows:g} rows")
        scale: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
        if files.task == CLASSES_OF:
            classes = in_order(summary.counts.get(_CLASSES, {}))
            if len(classes) < 2:
                raise ValueError(f"at least 2 classes are needed; there are {len(classes)}")
        else:
            classes = targets
        if files.task == "regression":
            scale = moments((rows, *summary.sums.get(_TARGETS, ())))
        columns = _columns_of(sums, targets, scale)
        features = [pair for name in sorted(sums) if sums[name].column(name) for pair in sums[name].moments()]
        mean, std = moments((rows, *(a for a, _ in features), *(b for _, b in features)))
        return InputFacts(
            dataset=self.name,
            classes=classes,
            input_shape=(len(features),),
            mean=mean,
            std=std,
            task=files.task,
            details=columns.to_json(),
        )

    # ---- parts of it -------------------------------------------------------------------------------------------------

    def _parts(self, files: Files) -> tuple[Part, Part]:
        with as_data_error(files.root):
            return parts_of(self._format, self._place, files)

    def _inputs(self, part: Part, files: Files) -> list[str]:
        """The columns that are neither target nor client nor left out, ascending: the same on every device."""
        if not len(part):
            raise BadTable(f"{self._place}: no rows to train on")
        file, first = part.tables[0]
        without = {plain(name) for name in (*files.table_without.split(","), files.table_clients)}
        names = set(first.column_names) - without - set(part.targets)
        if not names:
            raise BadTable(f"{file}: it has no column beside the target")
        return sorted(names)

    def _sums(self, part: Part, files: Files) -> dict[str, ColumnSums]:
        found = {}
        for name in self._inputs(part, files):
            of_files = []
            for file, table in part.tables:
                of_files.append(sums_of(part.column(table, file, name), f"{file}, column {name}"))
            _same_kind(name, [file for file, _ in part.tables], of_files)
            counts: dict[str, int] = {}
            for one in of_files:
                counts = {value: counts.get(value, 0) + one.counts.get(value, 0) for value in {**counts, **one.counts}}
            found[name] = ColumnSums(
                rows=sum(one.rows for one in of_files),
                missing=sum(one.missing for one in of_files),
                total=sum(one.total for one in of_files),
                squares=sum(one.squares for one in of_files),
                counts=counts,
            )
        return found

    def _columns(self, files: Files) -> Columns:
        if files.facts is not None:
            return Columns.from_json(files.facts.details)
        with as_data_error(files.root):
            train, _ = self._parts(files)
            sums = self._sums(train, files)
            if files.task != "regression":
                return _columns_of(sums, train.targets)
            numbers = self._numbers(train, files)
            scale = moments((float(len(train)), *numbers.sum(0).tolist(), *np.square(numbers).sum(0).tolist()))
            return _columns_of(sums, train.targets, scale)

    def _numbers(self, part: Part, files: Files) -> NDArray[np.float64]:
        """What is to be predicted, by columns of numbers, [rows, targets]."""
        found = []
        for file, table in part.tables:
            names = part.targets
            values = np.stack([numbers(table[name], f"{file}, column {name}") for name in names], axis=1)
            wrong = np.isnan(values) | ((values != 0) & (values != 1) if files.task == "multi-label" else False)
            if wrong.any():
                row, target = (int(one[0]) for one in np.nonzero(wrong))
                wanted = "0 or 1" if files.task == "multi-label" else "a number"
                raise BadTable(
                    f"{file}, row {row + 1}: {names[target]} is {values[row, target]:g}, and {wanted} is wanted"
                )
            found.append(values)
        return np.concatenate(found) if found else np.zeros((0, 1))

    def _labels(self, part: Part, files: Files) -> list[str]:
        found: list[str] = []
        for file, table in part.tables:
            (name,) = part.targets
            for row, value in enumerate(texts(table[name], f"{file}, column {name}"), 1):
                if value is None:
                    raise BadTable(f"{file}, row {row}: it has no {name}, which is what is to be predicted")
                found.append(value)
        return found

    def _classes(self, files: Files) -> tuple[str, ...]:
        if files.task != CLASSES_OF:
            return self._columns(files).targets
        with as_data_error(files.root):
            names = in_order(name for part in self._parts(files) for name in self._labels(part, files))
            if len(names) > _MOST_CLASSES:
                few = f"{', '.join(names[:3])}, …"
                raise BadTable(f"{len(names)} classes ({few}), and {_MOST_CLASSES} are allowed")
            return names

    def _examples(self, part: Part, files: Files) -> Examples:
        columns = self._columns(files)
        place = {name: number for number, name in enumerate(self._classes(files))}
        with as_data_error(files.root):
            rows = [columns.encode(table, file) for file, table in part.tables]
            if files.task == CLASSES_OF:
                labels = torch.tensor([place[name] for name in self._labels(part, files)], dtype=torch.int64)
            else:
                mean, std = columns.mean or 0.0, columns.std or 1.0
                labels = torch.from_numpy((self._numbers(part, files) - mean) / std).float()
                labels = labels.reshape(-1, len(columns.targets))
            owners = self._owners(part, files)
        values = np.concatenate(rows) if rows else np.zeros((0, len(columns.features)), dtype=np.float32)
        who = None if owners is None else torch.from_numpy(owners)
        return Examples(torch.from_numpy(values), labels, who)

    def _owners(self, part: Part, files: Files) -> NDArray[np.int64] | None:
        """The number of each row's client, in the order of their names; None where nothing says it."""
        name, found = plain(files.table_clients), list[str]()
        if not name and len(part.tables) < 2:
            return None
        for file, table in part.tables:
            people: list[str | None] = [file] * table.num_rows
            if name:
                people = texts(part.column(table, file, name, "table-clients"), f"{file}, column {name}")
            for row, who in enumerate(people, 1):
                if who is None:
                    raise BadTable(f"{file}, row {row}: it has no {name} (`table-clients`)")
                found.append(who)
        place = {one: number for number, one in enumerate(in_order(found))}
        return np.array([place[one] for one in found], dtype=np.int64)


def _columns_of(
    sums: Mapping[str, ColumnSums],
    targets: tuple[str, ...],
    scale: tuple[tuple[float, ...], tuple[float, ...]] = ((), ()),
) -> Columns:
    found = [sums[name].column(name) for name in sorted(sums)]
    inputs = tuple(column for column in found if column is not None)
    if not inputs or sum(len(column.features) for column in inputs) > MOST_FEATURES:
        raise BadTable(f"its columns make no features, or more than {MOST_FEATURES}")
    return Columns(inputs=inputs, targets=targets, mean=scale[0], std=scale[1])


def _same_kind(name: str, files: Sequence[str], sums: Sequence[ColumnSums]) -> None:
    """See that a column holds numbers in all files, or texts in all."""
    known = [(file, bool(one.counts)) for file, one in zip(files, sums, strict=True) if one.missing < one.rows]
    texts, plain_numbers = ([file for file, is_text in known if is_text is wanted] for wanted in (True, False))
    if texts and plain_numbers:
        raise BadTable(f"column {name} holds texts in {texts[0]} and numbers in {plain_numbers[0]}")


def _count(names: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in names:
        found[name] = found.get(name, 0) + 1
    return found
