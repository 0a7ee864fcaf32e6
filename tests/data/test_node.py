"""One client's share: complete, divided as the settings say, cached within bounds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data import DataSettings, load, node_data
from data.cache import ByteCache
from data.node import _test_size
from models.errors import SettingError


def test_everybody_together_has_every_example_once() -> None:
    settings = DataSettings(partition="dirichlet")
    nodes = [node_data(settings, number) for number in range(settings.num_clients)]
    held = torch.cat([split.inputs for node in nodes for split in (node.train, node.test)]).flatten(1)
    everything = load(settings).train.inputs.flatten(1)
    assert sorted(map(tuple, held.tolist())) == sorted(map(tuple, everything.tolist()))
    for node in nodes:
        assert node.labels == tuple(sorted(set(node.train.labels.tolist())))
        assert node.train.inputs.is_contiguous()
        assert len(node.train) >= 1
        assert abs(len(node.test) - settings.local_test_fraction * (len(node.train) + len(node.test))) <= 1


def test_same_settings_same_share_and_seed_matters() -> None:
    first, again, other = (node_data(DataSettings(seed=seed), 3) for seed in (5, 5, 6))
    assert first is again
    assert not torch.equal(first.train.inputs[:20], other.train.inputs[:20])


def test_fraction_changes_the_division_not_the_shard() -> None:
    whole = node_data(DataSettings(local_test_fraction=0.0), 0)
    parted = node_data(DataSettings(local_test_fraction=0.5), 0)
    assert len(whole.test) == 0
    assert whole.test.inputs.shape[1:] == (1, 8, 8)
    assert abs(len(parted.train) - len(parted.test)) <= 1
    together = torch.cat([parted.test.inputs, parted.train.inputs])
    assert torch.equal(together, whole.train.inputs)


def test_a_shard_of_one_example_is_for_training() -> None:
    node = node_data(DataSettings(num_clients=1437), 1436)
    assert (len(node.train), len(node.test)) == (1, 0)
    assert node.labels == (int(node.train.labels),)


@given(examples=st.integers(1, 5000), fraction=st.floats(0, 0.999))
def test_some_to_train_and_some_to_test(examples: int, fraction: float) -> None:
    tested = _test_size(examples, fraction)
    assert 0 <= tested < examples
    assert tested == 0 if fraction == 0 or examples == 1 else tested >= 1


@pytest.mark.parametrize("number", [-1, 20])
def test_no_such_partition(number: int) -> None:
    with pytest.raises(SettingError, match=f"^partition-id = {number}: allowed is 0 to 19 with num-clients = 20$"):
        node_data(DataSettings(), number)


def test_cache_keeps_the_recently_used_within_its_bytes() -> None:
    cache: ByteCache[bytes] = ByteCache(limit=10, size=len)
    made: list[str] = []

    def get(key: str, size: int) -> None:
        def make() -> bytes:
            made.append(key)
            return bytes(size)

        assert len(cache.get(key, make)) == size

    for key, size in (("a", 4), ("b", 4), ("a", 4), ("c", 4), ("a", 4), ("b", 4), ("huge", 99), ("huge", 99), ("a", 4)):
        get(key, size)
    assert made == ["a", "b", "c", "b", "huge", "a"]
