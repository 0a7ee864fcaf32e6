"""Inputs that stay as they are stored are those of the tensor that they stand for, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data import DataSettings, Split, load, node_data
from data.stored import Scale, Stored, inputs_of

_DRAWS = torch.Generator().manual_seed(0)
_VALUES = torch.randint(256, (37, 3, 5, 4), generator=_DRAWS, dtype=torch.uint8)
_SCALE = Scale(mean=torch.tensor([10.0, 0.1, 3.3]).reshape(3, 1, 1), std=torch.tensor([3.0, 7.7, 0.3]).reshape(3, 1, 1))


def test_every_way_to_them_gives_the_same_bits() -> None:
    assert _SCALE.mean is not None
    assert _SCALE.std is not None
    whole = _VALUES.to(torch.float32).sub(_SCALE.mean).div(_SCALE.std)
    rows = torch.randperm(37, generator=_DRAWS)[:20]
    for stored, wanted in (
        (Stored(values=_VALUES, rows=None, scale=_SCALE), whole),
        (Stored(values=_VALUES, rows=rows, scale=_SCALE), whole[rows]),
    ):
        some = torch.tensor([3, 0, 19, 3])
        assert tuple(stored.shape) == tuple(wanted.shape)
        assert torch.equal(stored.whole(), wanted)
        assert torch.equal(torch.cat(list(stored.split(6))), wanted)
        assert torch.equal(stored.index_select(0, some), wanted[some])
        assert torch.equal(stored.select(some).whole(), wanted[some])
        split, plain = Split(stored, torch.arange(len(wanted))), Split(wanted, torch.arange(len(wanted)))
        for one, other in zip(split.batches(7), plain.batches(7), strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])
        assert torch.equal(split.select(some).inputs, plain.select(some).inputs)


def test_channels_that_come_last_do_not_change_how_a_batch_lies_in_memory() -> None:
    last = _VALUES.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert Stored(values=last, rows=None, scale=_SCALE).whole().is_contiguous()


def test_tokens_become_int64() -> None:
    tokens = torch.arange(12, dtype=torch.int32).reshape(4, 3)
    assert torch.equal(Stored(values=tokens, rows=None, scale=Scale()).whole(), tokens.to(torch.int64))


def test_what_is_small_is_made_ready_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(inputs_of(_VALUES, None, _SCALE), torch.Tensor)
    monkeypatch.setattr("data.stored.READY_AT_ONCE", _VALUES.numel() * 4 - 1)
    assert isinstance(inputs_of(_VALUES, None, _SCALE), Stored)


def test_a_client_has_the_same_examples_either_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ready = node_data(DataSettings(num_clients=4), 1)
    monkeypatch.setattr("data.stored.READY_AT_ONCE", 0)
    (tmp_path / "other").mkdir()
    stored = node_data(DataSettings(num_clients=4, data_root=str(tmp_path / "other")), 1)
    assert isinstance(stored.train.held, Stored)
    assert torch.equal(stored.train.inputs, ready.train.inputs)
    assert torch.equal(stored.test.inputs, ready.test.inputs)
    assert torch.equal(stored.train.labels, ready.train.labels)
    # Nothing was copied: the client's rows are the data set's.
    examples = load(DataSettings(num_clients=4, data_root=str(tmp_path / "other"))).train_examples
    assert stored.train.held.values.data_ptr() == examples.values.data_ptr()


def test_what_scales_them_is_on_their_device() -> None:
    stored = Stored(values=_VALUES, rows=None, scale=_SCALE).to(torch.device("meta"))
    assert stored.scale.mean is not None
    assert stored.scale.std is not None
    assert stored.scale.mean.device.type == stored.scale.std.device.type == "meta"
    assert stored.index_select(0, torch.tensor([3, 1])).shape == (2, *_VALUES.shape[1:])
    assert Stored(values=_VALUES, rows=None, scale=Scale()).to(torch.device("meta")).scale == Scale()
