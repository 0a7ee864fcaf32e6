"""Sets in memory: shapes, normalisation, the fixed split of the digits, sharing."""

from __future__ import annotations

import subprocess
import sys
from itertools import count
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from data import DataError, DataSet, DataSettings, Examples, Files, Split, Task, inspect, load


def test_digits_are_all_there_once() -> None:
    digits = load(DataSettings())
    assert (digits.name, digits.classes) == ("digits", 10)
    assert digits.train.inputs.shape == (1437, 1, 8, 8)
    assert digits.test.inputs.shape == (360, 1, 8, 8)
    assert digits.train.inputs.dtype == torch.float32
    assert digits.train.labels.dtype == torch.int64
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    images, labels = load_digits(return_X_y=True)
    here = torch.cat([digits.train_examples.values, digits.test_examples.values]).flatten(1).numpy()
    there = np.concatenate([labels[:, None], images], axis=1)
    ours = np.concatenate([torch.cat([digits.train.labels, digits.test.labels]).numpy()[:, None], here], axis=1)
    assert sorted(map(tuple, ours.tolist())) == sorted(map(tuple, there.tolist()))


def test_digits_split_is_stratified() -> None:
    digits = load(DataSettings())
    train, test = torch.bincount(digits.train.labels), torch.bincount(digits.test.labels)
    assert ((test - (train + test) / 5).abs() < 1).all()


def test_test_set_does_not_depend_on_the_seed() -> None:
    assert load(DataSettings(seed=1)) is load(DataSettings(seed=2, partition="labels", num_clients=3))


def test_normalised_by_the_train_split() -> None:
    digits = load(DataSettings())
    assert digits.train.inputs.double().mean().abs() < 1e-6
    assert abs(digits.train.inputs.double().std(correction=0) - 1) < 1e-6
    raw, mean, std = digits.test_examples.values.double(), 0.0, 0.0
    mean = float(digits.train_examples.values.double().mean())
    std = float(digits.train_examples.values.double().std(correction=0))
    torch.testing.assert_close(digits.test.inputs.double(), (raw - mean) / std, atol=1e-6, rtol=1e-6)


def test_normalised_per_channel_and_over_several_chunks() -> None:
    draws = torch.Generator().manual_seed(0)
    values = torch.randint(0, 256, (1100, 3, 4, 5), generator=draws, dtype=torch.uint8)
    values[:, 1] //= 7
    values[:, 2] = 77
    examples = Examples(values, torch.zeros(1100, dtype=torch.int64))
    data = DataSet(name="made", task=Task(1, (3, 4, 5)), train_examples=examples, test_examples=examples)
    channels = data.train.inputs.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(channels.mean(1), torch.zeros(3, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        channels.std(1, correction=0), torch.tensor([1, 1, 0], dtype=torch.float64), atol=1e-6, rtol=0
    )


def test_selected_rows_are_the_rows_of_train_bit_for_bit() -> None:
    digits = load(DataSettings())
    rows = torch.tensor([1436, 0, 700])
    chosen = digits.select(rows)
    assert torch.equal(chosen.inputs, digits.train.inputs[rows])
    assert torch.equal(chosen.labels, digits.train.labels[rows])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("digits", Task(10, (1, 8, 8))),
        ("mnist", Task(10, (1, 28, 28))),
        ("fashion-mnist", Task(10, (1, 28, 28))),
        ("cifar10", Task(10, (3, 32, 32))),
        ("cifar100", Task(100, (3, 32, 32))),
        ("sst2", Task(2, (56,), 8000)),
        ("shakespeare", Task(65, (80,), 67)),
        ("har", Task(6, (9, 128))),
    ],
)
def test_inspect_needs_no_files(name: str, expected: Task) -> None:
    assert inspect(DataSettings(dataset=name, data_root="/nowhere")) == expected


def test_importing_data_imports_nothing_heavy() -> None:
    code = (
        "import sys, data;"
        "print([m for m in ('sklearn', 'torchvision', 'flwr_datasets', 'datasets', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True, env=_environment()
    )
    assert done.stdout.strip() == "[]"


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


FOUR = Task(4, (1, 8, 8))
NUMBERS = count()


class Given:
    """A source that returns what it is told to: pictures of 8 x 8 with four classes."""

    images, owned = True, False

    def __init__(self, examples: Any, task: Any = FOUR) -> None:
        self.examples, self.task = examples, task

    def inspect(self, files: Files) -> Any:
        del files
        return self.task

    def read(self, files: Files) -> Any:
        del files
        return self.examples


VALUES, LABELS = torch.rand(90, 1, 8, 8), torch.arange(90) % 4


def loaded(monkeypatch: pytest.MonkeyPatch, source: Given) -> DataSet:
    """Another name each time: what was read once is kept."""
    given = ModuleType("given_examples")
    name = f"source_{next(NUMBERS)}"
    setattr(given, name, source)
    monkeypatch.setitem(sys.modules, given.__name__, given)
    return load(DataSettings(dataset=f"given_examples:{name}"))


@pytest.mark.parametrize(
    ("values", "labels"),
    [(VALUES, LABELS.int()), (VALUES.numpy(), LABELS.to(torch.uint8).numpy()), (VALUES.double(), LABELS)],
)
def test_any_whole_numbers_and_arrays_are_examples(monkeypatch: pytest.MonkeyPatch, values: Any, labels: Any) -> None:
    some = Examples(values, labels, np.arange(90, dtype=np.int32))  # type: ignore[arg-type]
    found = loaded(monkeypatch, Given((some, some)))
    assert (found.train.inputs.dtype, found.train.labels.dtype) == (torch.float32, torch.int64)
    assert torch.equal(found.train.labels, LABELS)
    assert found.train_examples.owners is not None
    assert found.train_examples.owners.dtype == torch.int64


GOOD = Examples(VALUES, LABELS)


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        ((Examples(VALUES, LABELS.float()), GOOD), r"train part has labels of an integer type .* float32 \[90\]"),
        ((GOOD, Examples(VALUES, LABELS[:89])), "test part has as many labels as inputs; .* 90 inputs and 89 labels"),
        ((Examples(VALUES, LABELS, LABELS[:3]), GOOD), "as many owners as inputs"),
        ((Examples(VALUES, torch.rand(90, 4)), GOOD), r"labels int64 \[N\] where the task is classification"),
        ((Examples(VALUES.tolist(), LABELS), GOOD), "inputs as a tensor or a NumPy array"),  # type: ignore[arg-type]
        (((VALUES, LABELS), (VALUES, LABELS)), r"returns two data\.Examples, .*; it returns tuple, tuple"),
        ((Split(VALUES, LABELS), Split(VALUES, LABELS)), "it returns Split, Split"),
        (GOOD, "it returns Examples"),
        (None, "it returns NoneType"),
    ],
)
def test_what_are_no_examples_is_one_line(monkeypatch: pytest.MonkeyPatch, given: Any, allowed: str) -> None:
    with pytest.raises(DataError, match=rf"allowed is 'given_examples:source_\d+' .*{allowed}") as caught:
        loaded(monkeypatch, Given(given))
    assert "\n" not in str(caught.value)


def test_a_task_and_its_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"inspect\(files\) returns a data\.Task; it returns a tuple"):
        loaded(monkeypatch, Given((GOOD, GOOD), (4, (1, 8, 8))))
    numbers = Task(2, (1, 8, 8), kind="regression")
    for labels in (LABELS, torch.rand(90, 3)):
        with pytest.raises(DataError, match=r"labels float32 \[N, 2\] where the task is regression"):
            loaded(monkeypatch, Given((Examples(VALUES, labels), GOOD), numbers))
