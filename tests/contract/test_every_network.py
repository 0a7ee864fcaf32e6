"""Every network with every method: one round, and every tier's score, is finite.

A part of them runs with every change, so that each network and each method is in it, the rest by `make test-slow`.
"""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Any

import pytest

from models.networks.registry import NETWORKS
from tests.corpora import write_har, write_sst2
from tests.support import OF_ALL, Player

SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"widths": "12, 8"},
    "cnn": {"widths": "4, 4, 8"},
    "cnn-flat": {"widths": "4, 4, 8"},
    "cnn-strided": {"widths": "4, 4, 8"},
    "resnet": {"widths": "4, 8", "blocks": "1, 2"},
    "resnet-post": {"widths": "4, 8", "blocks": "2, 2"},
    "vit": {"widths": "16, 16", "blocks": "3", "heads": 2},
    "transformer": {"widths": "16, 16", "blocks": "3", "heads": 2},
    "gru": {"widths": "4, 8, 8"},
    "cnn1d": {"widths": "4, 8, 8"},
}
TEXTS: dict[str, Any] = {"dataset": "sst2", "vocabulary_size": 12, "sequence_length": 10}
SIGNALS: dict[str, Any] = {"dataset": "har", "partition": "natural", "num_clients": 4}
DATA = {"transformer": TEXTS, "gru": TEXTS, "cnn1d": SIGNALS}
PAIRS = [(network, method) for network in NETWORKS for method in OF_ALL]


def _marks(place: int) -> Any:
    network, method = PAIRS[place]
    return pytest.param(network, method, marks=[pytest.mark.slow] if sum(divmod(place, len(OF_ALL))) % 4 else [])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_sst2(folder)
    write_har(folder)
    return folder


def test_the_list_is_of_all_networks() -> None:
    assert SMALL.keys() == NETWORKS.keys()
    quick = [PAIRS[i] for i in range(len(PAIRS)) if not _marks(i).marks]
    assert {network for network, _ in quick} == set(NETWORKS)
    assert {method for _, method in quick} == set(OF_ALL)


@pytest.mark.parametrize(("network", "method"), [_marks(i) for i in range(len(PAIRS))])
def test_one_round(play: Player, root: Path, network: str, method: str) -> None:
    keys: dict[str, Any] = {
        "num_clients": 3,
        **DATA.get(network, {}),
        "model": network,
        **SMALL[network],
        "method": method,
        "data_root": str(root),
        "num_server_rounds": 1,
        "batch_size": 64,
        "tiers": "a:1, b:1/2, c:1/4",
    }
    out = play(**keys)
    assert out.rejected == []
    assert all(tensor.isfinite().all() for tensor in out.state.values())
    (row,) = out.rows
    assert isfinite(row["loss"])
    assert all(isfinite(tier["loss"]) for tier in row["tiers"].values())
