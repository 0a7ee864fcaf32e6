"""Numbers to predict are checked in one way, wherever they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from torch.utils.data import Dataset

from data import DataError, DataSettings, load
from data.table_file import BadTable
from data.targets import targets_in


@pytest.mark.parametrize(
    ("told", "task", "said"),
    [
        ([1.0, "two"], "regression", "here, row 1: a finite number is wanted"),
        (np.array(["1", "2"]), "regression", "here, row 0: a finite number is wanted"),
        ([[1, 2], [3]], "regression", r"here, row 1: a finite number is wanted, and of the shape \[2\] as in row 0"),
        ([1.0, [[1], [2, 3]]], "regression", "here, row 1"),
        ([1.0, None], "regression", "here, row 1"),
        ([1.0, 2.0, float("inf")], "regression", "here, row 2"),
        ([[0, 1], [1, 2]], "multi-label", "here, row 1: 0 or 1 is wanted"),
    ],
)
def test_what_is_no_number_is_named(told: Any, task: str, said: str) -> None:
    with pytest.raises(BadTable, match=said):
        targets_in(told, task, "here")


def test_numbers_have_a_column_each() -> None:
    assert targets_in([1, 2.5], "regression", "").tolist() == [[1.0], [2.5]]
    assert targets_in(np.array([[True, False]]), "multi-label", "").tolist() == [[1.0, 0.0]]


class Asked(Dataset[tuple[Any, Any]]):
    """Rows with answers of which one is neither yes nor no."""

    def __init__(self, root: str) -> None:
        self.root = root

    def __len__(self) -> int:
        return 4

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        return np.ones(3, dtype=np.float32), [row % 2, row]


def _saved(root: Path, labels: list[Any]) -> None:
    datasets.Dataset.from_dict({"x": [[0.0, 1.0]] * len(labels), "y": labels}).save_to_disk(str(root / "set"))


def test_every_source_refuses_what_is_neither_0_nor_1(tmp_path: Path) -> None:
    answers = [[row % 2, row] for row in range(4)]
    _saved(tmp_path, answers)
    np.savez(tmp_path / "a.npz", x=np.ones((4, 3)), y=np.array(answers))
    for name in ("hf:set", "npz:a.npz", f"{__name__}:Asked"):
        with pytest.raises(DataError, match="row 2: 0 or 1 is wanted"):
            load(DataSettings(dataset=name, data_root=str(tmp_path), task="multi-label"))


@pytest.mark.parametrize("labels", [["a", "b"], [[1.0], [1.0, 2.0]]], ids=["text", "unlike"])
def test_what_the_library_saved_says_why_it_cannot_be_used(tmp_path: Path, labels: list[Any]) -> None:
    _saved(tmp_path, labels)
    with pytest.raises(DataError, match="hf:set, train, column y, row"):
        load(DataSettings(dataset="hf:set", data_root=str(tmp_path), task="regression"))


def test_numbers_in_one_part_leave_some_for_testing(tmp_path: Path) -> None:
    _saved(tmp_path, [float(number) for number in range(10)])
    data = load(DataSettings(dataset="hf:set", data_root=str(tmp_path), task="regression"))
    assert (len(data.train), len(data.test), data.task.classes) == (8, 2, 1)
