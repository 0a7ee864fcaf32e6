"""Data sets that the library `datasets` saved: pictures, texts and numbers, by what their columns are."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from data import DataError, DataSettings, input_facts, inspect, load, shards
from data.labelled_texts import LabelledText
from models.errors import SettingError

_DRAWS = np.random.default_rng(0)
_PIXELS = _DRAWS.integers(0, 256, (10, 6, 6), dtype=np.uint8)


def _save(folder: Path, columns: dict[str, Any], features: dict[str, Any] | None = None) -> None:
    train = datasets.Dataset.from_dict(columns, datasets.Features(features) if features else None)
    datasets.DatasetDict({"train": train, "test": train.select(range(4))}).save_to_disk(str(folder))


def _pictures(folder: Path, **more: Any) -> None:
    _save(
        folder,
        {"image": [Image.fromarray(one) for one in _PIXELS], "labels": [0, 1, 2, 1, 0] * 2, **more},
        {
            "image": datasets.Image(),
            "labels": datasets.ClassLabel(names=["rose", "iris", "fern"]),
            **dict.fromkeys(more, datasets.Value("string")),
        },
    )


def _settings(root: Path, place: str, **more: Any) -> DataSettings:
    return DataSettings(dataset=f"hf:{place}", data_root=str(root), image_size=6, image_channels=1, **more)


def test_pictures_with_names_of_classes(tmp_path: Path) -> None:
    _pictures(tmp_path / "flowers", who=["ann", "bob"] * 5)
    settings = _settings(tmp_path, "flowers(client=who)", partition="natural", num_clients=2)
    data = load(settings)
    np.testing.assert_array_equal(data.train_examples.values[:, 0].numpy(), _PIXELS)
    assert data.train_examples.labels.tolist() == [0, 1, 2, 1, 0] * 2
    assert (len(data.test), inspect(settings).input_shape) == (4, (1, 6, 6))
    assert input_facts(settings).classes == ("rose", "iris", "fern")
    assert [part.tolist() for part in shards(settings)] == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]


def test_one_part_is_divided_and_devices_may_own_theirs(tmp_path: Path) -> None:
    features = datasets.Features({"x": datasets.Array2D((2, 3), "float32"), "y": datasets.Value("int64")})
    values = _DRAWS.normal(size=(10, 2, 3)).astype(np.float32)
    datasets.Dataset.from_dict({"x": values.tolist(), "y": [0, 7] * 5}, features).save_to_disk(str(tmp_path / "set"))
    data = load(_settings(tmp_path, "set"))
    assert (len(data.train), len(data.test), data.task.input_shape) == (8, 2, (2, 3))
    own = input_facts(_settings(tmp_path, "set", partition="own"))
    assert own.classes == ("0", "7")
    assert own.mean == pytest.approx(tuple(values.mean((0, 2))), abs=1e-6)


def test_texts_get_the_runs_tokenizer(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    _save(tmp_path / "words", {"sentence": ["good film", "bad film"] * 3, "label": ["yes", "no"] * 3})
    settings = _settings(tmp_path, "words", sequence_length=4)
    data = load(settings)
    assert data.train_examples.values.shape == (6, 4)
    assert input_facts(settings).classes == ("no", "yes")
    own = input_facts(_settings(tmp_path, "words", sequence_length=4, partition="own"))
    assert (own.units, own.vocabulary) == ("subwords", data.task.vocabulary)


def test_numbers_to_predict(tmp_path: Path) -> None:
    _save(tmp_path / "set", {"x": [[0.0, 1.0], [1.0, 3.0], [2.0, 2.0], [3.0, 1.0]], "y": [0.5, 1.5, 2.5, 3.5]})
    data = load(_settings(tmp_path, "set", task="regression"))
    assert data.train_examples.labels.flatten().tolist() == [0.5, 1.5, 2.5, 3.5]
    assert data.task.classes == 1


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    _pictures(tmp_path / "flowers")
    _save(tmp_path / "bad", {"x": [[1.0], [float("nan")], [2.0], [3.0]], "y": [0, 1, 0, 1]})
    _save(tmp_path / "unsaid", {"a": [[1.0]] * 4, "b": [[2.0]] * 4, "y": [0, 1, 0, 1]})
    _save(tmp_path / "blank", {"text": ["a", " ", "b", "c"], "label": ["x", "y", "x", "y"]})
    (tmp_path / "empty").mkdir()
    (tmp_path.parent / "outside").mkdir(exist_ok=True)
    for place, said in (
        ("bad", "column x, row 1: a value is not finite"),
        ("flowers(client=who)", "there is no such column; there are image, labels"),
        ("unsaid", r"which column is the input, hf:FOLDER\(input=…\); there are a, b, y"),
        ("blank", "column text, row 1: no text"),
        ("empty", "nothing in it"),
        ("../outside", "below data-root"),
    ):
        with pytest.raises(DataError, match=said):
            load(_settings(tmp_path, place))
    with pytest.raises(SettingError, match="input, label, client, not image"):
        _settings(tmp_path, "flowers(image=labels)")


def test_a_picture_that_is_none_is_named(tmp_path: Path) -> None:
    _save(
        tmp_path / "set",
        {"image": [{"bytes": b"no picture", "path": None}] * 4, "label": [0, 1, 0, 1]},
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])},
    )
    with pytest.raises(DataError, match="hf:set, train, column image, row 0"):
        assert load(_settings(tmp_path, "set")).train.inputs is None
    _save(
        tmp_path / "missing",
        {"image": [Image.new("L", (6, 6)), None] * 2, "label": [0, 1, 0, 1]},
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])},
    )
    with pytest.raises(DataError, match="row 1 has no picture in it"):
        load(_settings(tmp_path, "missing"))


def test_labels_out_of_range_are_named(tmp_path: Path) -> None:
    table = {"x": [[1.0]] * 4, "y": [0, 1, -1, 1]}
    _save(
        tmp_path / "set",
        table,
        {"x": datasets.List(datasets.Value("float32")), "y": datasets.ClassLabel(names=["a", "b"])},
    )
    with pytest.raises(DataError, match="column y, row 2: -1 is no class"):
        load(_settings(tmp_path, "set"))


def test_a_missing_label_is_named_by_part_and_row(tmp_path: Path) -> None:
    parts: dict[str, list[str | None]] = {"train": ["a", "b", "a"], "test": ["a", None]}
    rows = {part: datasets.Dataset.from_dict({"x": [[1.0]] * len(y), "y": y}) for part, y in parts.items()}
    datasets.DatasetDict(rows).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(DataError, match="hf:set, test, column y, row 1: there is no label"):
        load(_settings(tmp_path, "set"))


def test_rows_of_texts_are_made_once_and_have_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tokenizers")
    _save(tmp_path / "words", {"sentence": ["good film", "bad film"] * 3, "label": ["yes", "no"] * 3})
    made = list[str]()

    def counted(*fields: str) -> LabelledText:
        made.append(fields[0])
        return LabelledText(*fields)

    monkeypatch.setattr("data.hugging_face.LabelledText", counted)
    settings = _settings(tmp_path, "words", sequence_length=4)
    load(settings)
    input_facts(settings)
    assert len(made) == 6 + 4
    with pytest.raises(DataError, match="texts have a class each"):
        load(_settings(tmp_path, "words", task="regression"))


def test_sixteen_bits_stay(tmp_path: Path) -> None:
    deep = [Image.fromarray(np.full((6, 6), 257 * value + 64, np.uint16)) for value in range(4)]
    _save(
        tmp_path / "set",
        {"image": deep, "label": [0, 1, 0, 1]},
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])},
    )
    values = load(_settings(tmp_path, "set")).train_examples.values
    assert values.dtype == torch.float32
    assert values[:, 0, 0, 0].tolist() == pytest.approx([value + 64 / 257 for value in range(4)])


def test_pictures_are_not_held_at_once_and_other_columns_not_decoded(tmp_path: Path) -> None:
    broken = {"bytes": b"no picture", "path": None}
    noise = _DRAWS.integers(0, 256, (20, 200, 200), dtype=np.uint8)
    _save(
        tmp_path / "set",
        {"image": [Image.fromarray(one) for one in noise], "other": [broken] * 20, "label": [0, 1] * 10},
        {"image": datasets.Image(), "other": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])},
    )
    settings = _settings(tmp_path, "set(input=image)")
    tracemalloc.start()
    try:
        data = load(settings)
        assert tracemalloc.get_traced_memory()[1] < noise.nbytes / 2
    finally:
        tracemalloc.stop()
    assert data.train.inputs.shape == (20, 1, 6, 6)


def test_what_the_library_has_in_its_cache(tmp_path: Path) -> None:
    lines = "".join(f'{{"x": [{draw:.3f}, 1.0], "y": {row % 2}}}\n' for row, draw in enumerate(_DRAWS.normal(size=10)))
    (tmp_path / "rows.jsonl").write_text(lines)
    rows, cache = str(tmp_path / "rows.jsonl"), tmp_path / "cache"
    datasets.load_dataset("json", data_files={"train": rows, "test": rows}, cache_dir=str(cache))
    data = load(_settings(cache, "json"))
    assert (len(data.train), len(data.test), data.task.input_shape) == (10, 10, (2,))
    datasets.load_dataset("json", data_files={"train": rows}, cache_dir=str(cache))
    with pytest.raises(DataError, match="2 versions are in the cache"):
        load(_settings(cache, "json", partition="own"))
