"""Facts of a task: pooled from sums as if the data lay in one place, bounded in every direction, and mapped by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data import DataError, DataSettings, InputFacts, Summary, facts_from, load, node_data, summarise
from data.channel_sums import channel_sums, moments
from models.errors import SettingError

_GREY = {"cat": 40, "dog": 90, "eel": 200}


def _device(root: Path, *classes: str, count: int = 2) -> DataSettings:
    for name in classes:
        (root / "train" / name).mkdir(parents=True)
        (root / "test" / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (4, 4), (_GREY[name] + number,) * 3).save(root / "train" / name / f"{number}.png")
    return DataSettings(dataset="image-folder", data_root=str(root), image_size=4, partition="own", num_clients=2)


FACTS = InputFacts(
    dataset="image-folder",
    classes=("cat", "dog", "eel"),
    input_shape=(3, 4, 4),
    images=True,
    mean=(100.0,) * 3,
    std=(2.0,) * 3,
)


def test_a_device_numbers_by_name_and_uses_all_it_has(tmp_path: Path) -> None:
    """Its own folders alone would make eel class 0; a share would be one picture of the two."""
    data = node_data(_device(tmp_path, "eel"), 7, FACTS)
    assert data.labels == (2,)
    assert len(data.train) + len(data.test) == 2
    assert sorted({*data.train.inputs.flatten().tolist(), *data.test.inputs.flatten().tolist()}) == [50.0, 50.5]


def test_one_picture_is_enough(tmp_path: Path) -> None:
    data = node_data(_device(tmp_path, "dog", count=1), 0, FACTS)
    assert (data.train.labels.tolist(), len(data.test)) == ([1], 0)


def test_an_unknown_class_is_refused_by_name_and_only_counted_to_others(tmp_path: Path) -> None:
    (tmp_path / "train" / "yak").mkdir(parents=True)
    settings = _device(tmp_path, "cat")
    Image.new("RGB", (4, 4)).save(tmp_path / "train" / "yak" / "0.png")
    with pytest.raises(DataError) as caught:
        node_data(settings, 0, FACTS)
    assert "does not know 'yak'" in str(caught.value)
    assert "yak" not in caught.value.told
    assert "1 classes" in caught.value.told


def test_pooled_facts_are_those_of_all_pictures_together(tmp_path: Path) -> None:
    devices = [_device(tmp_path / "one", "cat", "eel"), _device(tmp_path / "two", "eel", "dog")]
    pooled = Summary()
    for device in devices:
        pooled = pooled + Summary.from_json(summarise(device).to_json())
    facts = facts_from(devices[0], pooled)
    values = np.concatenate([load(device).train_examples.values.numpy() for device in devices])
    assert facts.classes == ("cat", "dog", "eel")
    assert pooled.counts["class"] == {"cat": 2, "dog": 2, "eel": 4}
    assert (facts.mean, facts.std) == moments(channel_sums([values]).sums)
    assert (facts.least, facts.greatest) == (values.min(), values.max())


def test_devices_without_a_folder_are_told_so() -> None:
    nowhere = DataSettings(dataset="image-folder", partition="own")
    with pytest.raises(DataError, match="in its node config"):
        node_data(nowhere, 0, FACTS)


def test_what_is_the_same_everywhere_is_nobodys_own() -> None:
    with pytest.raises(SettingError, match="the same everywhere"):
        DataSettings(dataset="digits", partition="own")


def test_other_files_than_the_run_divides_are_noticed() -> None:
    facts = InputFacts(dataset="digits", classes=tuple("0123456789"), input_shape=(1, 8, 8), mean=(5.0,), std=(6.0,))
    told = InputFacts.from_json(facts.to_json().replace('"examples": 0', '"examples": 1000'))
    with pytest.raises(DataError, match="1000 training examples, not 1437"):
        node_data(DataSettings(), 0, told)


@given(st.lists(st.integers(0, 255), min_size=2, max_size=40), st.integers(1, 39))
def test_sums_add_to_the_sums_of_all(values: list[int], cut: int) -> None:
    every = np.array(values, dtype=np.uint8).reshape(-1, 1, 1)
    parts = [part for part in np.split(every, [min(cut, len(values) - 1)]) if len(part)]
    together = np.sum([channel_sums([part]).sums for part in parts], axis=0)
    assert tuple(together) == channel_sums([every]).sums == channel_sums(parts).sums
    mean, std = moments(tuple(together))
    expected = torch.tensor(values, dtype=torch.float64)
    assert mean[0] == pytest.approx(float(expected.mean()), rel=1e-6)
    assert std[0] == pytest.approx(float(expected.std(correction=0)) or 1.0, rel=1e-4, abs=1e-4)


HOSTILE = {
    "no json": "facts",
    "a list": "[]",
    "a negative count": '{"counts": {"class": {"a": -1}}, "sums": {}, "least": {}, "greatest": {}}',
    "a count of text": '{"counts": {"class": {"a": "1"}}, "sums": {}, "least": {}, "greatest": {}}',
    "no number": '{"counts": {}, "sums": {"values": [NaN]}, "least": {}, "greatest": {}}',
    "a long name": '{"counts": {"class": {"%s": 1}}, "sums": {}, "least": {}, "greatest": {}}' % ("a" * 201),
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_peers_summary_is_bounded(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Summary.from_json(text)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ("a", "a")},
        {"classes": ("a" * 201, "b")},
        {"input_shape": (0, 4, 4)},
        {"input_shape": (3, 2**20, 2**20)},
        {"std": (0.0, 1.0, 1.0)},
        {"mean": (float("nan"),) * 3},
        {"fit": "squeeze"},
        {"mean": (1.0,)},
        {"task": "guessing"},
    ],
)
def test_facts_are_bounded(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"classes|input_shape|mean|task|fit"):
        InputFacts(**(vars(FACTS) | change))
    assert InputFacts.from_json(FACTS.to_json()) == FACTS
