"""Whole runs on texts and signals, on small files in their formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from client_app import training
from models.errors import SettingError
from tests.corpora import write_har, write_shakespeare, write_sst2
from tests.support import Outcome, configured, play

KEYS: dict[str, dict[str, Any]] = {
    "sst2": {"num_clients": 3, "vocabulary_size": 12, "sequence_length": 10},
    "shakespeare": {"num_clients": 2, "partition": "natural", "sequence_length": 20},
    "har": {"num_clients": 4, "partition": "natural"},
}
NETWORKS: dict[str, dict[str, Any]] = {
    "gru": {"model": "gru", "widths": "6, 8, 8"},
    "cnn1d": {"model": "cnn1d", "widths": "8, 8, 8"},
    "mlp": {"model": "mlp", "widths": "16, 8"},
    "transformer": {"model": "transformer", "widths": "8, 16", "blocks": "2", "heads": 2},
}
COMBINATIONS = [
    ("sst2", "gru"),
    ("sst2", "transformer"),
    ("shakespeare", "gru"),
    ("shakespeare", "transformer"),
    ("har", "cnn1d"),
    ("har", "gru"),
    ("har", "mlp"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_sst2(folder)
    write_shakespeare(folder)
    write_har(folder)
    return folder


def _keys(root: Path, dataset: str, network: str, **keys: Any) -> dict[str, Any]:
    common = {"dataset": dataset, "data_root": str(root), "batch_size": 8, "min_nodes": 1, "evaluate_every": 1}
    return {**common, **KEYS[dataset], **NETWORKS[network], **keys}


@pytest.mark.parametrize(("dataset", "network"), COMBINATIONS)
def test_a_run(root: Path, tmp_path: Path, dataset: str, network: str) -> None:
    out = play(tmp_path / "run", fraction_evaluate=1.0, **_keys(root, dataset, network))
    assert out.summary["status"] == "finished"
    assert not out.rejected
    for row in out.rows:
        assert row["accepted"] == KEYS[dataset]["num_clients"]
        assert row["loss"] > 0
        assert set(row["tiers"]) == {"a", "b", "c"}
        assert row["local"]["loss"] > 0
    tiers = out.summary["last"]["tiers"]
    assert tiers["a"]["parameters"] > tiers["b"]["parameters"] > tiers["c"]["parameters"]
    assert tiers["a"]["macs"] > tiers["b"]["macs"] > tiers["c"]["macs"]


@pytest.mark.parametrize(
    ("dataset", "network", "method"),
    [("har", "cnn1d", "depthfl"), ("har", "cnn1d", "fjord"), ("sst2", "gru", "fjord"), ("har", "gru", "depthfl")],
)
def test_a_run_of_another_width_or_depth_method(
    root: Path, tmp_path: Path, dataset: str, network: str, method: str
) -> None:
    exits = "plain" if method == "depthfl" else "auto"
    out = play(tmp_path / "run", method=method, exits=exits, **_keys(root, dataset, network))
    assert out.summary["status"] == "finished"
    assert not out.rejected
    assert out.rows[-1]["loss"] > 0


def test_mixed_precision(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "has_bfloat16", lambda device: True)
    for network in ("cnn1d", "gru"):
        out = play(tmp_path / network, mixed_precision=True, num_server_rounds=1, **_keys(root, "har", network))
        assert not out.rejected


@pytest.mark.parametrize("network", ["cnn1d", pytest.param("gru", marks=pytest.mark.slow)])
def test_a_resumed_run_is_the_uninterrupted_one(root: Path, tmp_path: Path, network: str) -> None:
    keys = _keys(root, "har", network, fraction_train=0.6)
    whole = play(tmp_path / "whole", num_server_rounds=3, **keys)
    half = play(tmp_path / "half", num_server_rounds=2, **keys)
    resumed: Outcome = play(tmp_path / "half", num_server_rounds=3, resume=str(half.path), **keys)
    assert resumed.hash == whole.hash != play(tmp_path / "other", num_server_rounds=3, **{**keys, "seed": 2}).hash


def test_signals_are_learnt(root: Path, tmp_path: Path) -> None:
    """Six activities of people who were never seen."""
    keys = _keys(root, "har", "cnn1d", method="fedavg", num_server_rounds=10, evaluate_every=10, local_epochs=2)
    assert play(tmp_path / "run", **keys).summary["last"]["accuracy"] > 0.6


@pytest.mark.slow
def test_words_are_learnt(root: Path, tmp_path: Path) -> None:
    """One word of every sentence says its label."""
    keys = _keys(root, "sst2", "gru", method="fedavg", num_server_rounds=10, evaluate_every=10, local_epochs=4)
    assert play(tmp_path / "run", **keys).summary["last"]["accuracy"] > 0.9


@pytest.mark.parametrize(
    ("keys", "key", "wanted"),
    [
        ({"dataset": "har", "model": "cnn"}, "model", "a network for signals; 'cnn' takes images"),
        ({"dataset": "sst2", "model": "cnn1d"}, "model", "a network for texts; 'cnn1d' takes signals"),
        ({"dataset": "har", "model": "transformer"}, "model", "a network for signals; 'transformer' takes texts"),
        ({"dataset": "digits", "model": "gru"}, "model", "a network for images; 'gru' takes texts and signals"),
        ({"dataset": "har", "num_clients": 5}, "num-clients", "at most 4 with partition 'natural'"),
        ({"dataset": "sst2", "partition": "natural"}, "partition", "one of iid, dirichlet"),
        ({"dataset": "sst2", "vocabulary_size": 5000}, "vocabulary-size", "at most 17"),
        ({"dataset": "sst2", "vocabulary_size": 2}, "vocabulary-size", "3 to 100000"),
        ({"dataset": "shakespeare", "sequence_length": 4000}, "sequence-length", "the longest speaker"),
        ({"dataset": "har", "augment": "crop-flip"}, "augment", "\"none\" with dataset 'har'"),
        ({"dataset": "har", "synthetic-groups": "rotations:2"}, "synthetic-groups", "square images only"),
        ({"dataset": "sst2", "data_root": "/nowhere"}, "data-root", "SST2/stsa.binary.train"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_starts(
    root: Path, keys: dict[str, Any], key: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.fetch._unreachable", lambda address: "no network: none in this test")
    network = {"digits": "gru", "har": "cnn1d"}.get(keys["dataset"], "gru")
    base = _keys(root, keys["dataset"], network) if keys["dataset"] in KEYS else dict(NETWORKS[network])
    if "model" in keys:
        base["widths"] = ""
    with pytest.raises(SettingError) as caught:
        configured(**{**base, **keys})
    assert caught.value.key == key
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)
