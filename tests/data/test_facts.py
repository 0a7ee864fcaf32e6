"""Facts of a task: pooled from sums as if the data lay in one place, bounded in every direction, and mapped by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data import DataError, DataSettings, InputFacts, Summary, node_data
from data.channel_sums import channel_sums, moments
from models.errors import SettingError

FACTS = InputFacts(
    dataset="image-folder",
    classes=("cat", "dog", "eel"),
    input_shape=(3, 4, 4),
    images=True,
    mean=(100.0,) * 3,
    std=(2.0,) * 3,
)


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
    together = np.sum([channel_sums(part) for part in parts], axis=0)
    assert tuple(together) == channel_sums(every)
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
        {"mean": (1.0,)},
        {"task": "guessing"},
    ],
)
def test_facts_are_bounded(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"classes|input_shape|mean|task"):
        InputFacts(**(vars(FACTS) | change))
    assert InputFacts.from_json(FACTS.to_json()) == FACTS
