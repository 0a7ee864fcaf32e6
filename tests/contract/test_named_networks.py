"""Every method over networks that people use: one round of two devices each, or a refusal that says what it needs."""

from __future__ import annotations

from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

from benchmarks.probes.zoo_networks import DECODER
from models.errors import SettingError
from strategies import METHODS
from tests.corpora import write_sst2
from tests.support import OF_RANKS, Player

ZOO = "benchmarks.probes.zoo_networks"
PICTURES = {
    "resnet-18": "resnet-18",
    "mobilenet-v3-small": "mobilenet-v3-small",
    "efficientnet-b0": "efficientnet-b0",
    "vit": f"{ZOO}:vit",
    "mobilenet-v4-small": "mobilenet-v4-small",
    "depthwise, squeeze and excitation": "benchmarks.probes.zoo_modules:Squeezed",
}
TEXTS = {"lstm": "benchmarks.probes.zoo_modules:lstm", "bert": f"{ZOO}:bert", "llama": f"{__name__}:Llama"}
WITHOUT_BLOCKS = {"depthwise, squeeze and excitation", "lstm"}  # fewer than two that sums go around
WITHOUT_LINEAR = {"resnet-18", "efficientnet-b0", "mobilenet-v4-small", "lstm"}  # but for the head
WITH_A_WIDTH = {"mobilenet-v3-small"}
IN_DEPTH = {name for name in METHODS if "last" not in METHODS[name].PREFERENCES.exits}
RUN: dict[str, Any] = {
    "widths": "",
    "num_clients": 2,
    "num_server_rounds": 1,
    "batch_size": 8,
    "local_steps": 1,
    "tiers": "a:1, b:1/2",
    "evaluate_every": 1,
}


class Llama(nn.Module):
    """A small Llama of transformers, and a linear layer on its mean."""

    def __init__(self, vocabulary: int, classes: int) -> None:
        super().__init__()
        transformers = pytest.importorskip("transformers", reason="the extra `networks`")
        config = transformers.LlamaConfig(vocab_size=vocabulary, head_dim=6, **DECODER)
        self.body, self.head = transformers.LlamaModel(config), nn.Linear(config.hidden_size, classes)

    def forward(self, tokens: Tensor) -> Any:
        return self.head(self.body(tokens).last_hidden_state.mean(1))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_sst2(folder)
    draws = np.random.default_rng(0)
    pictures = draws.integers(0, 256, (60, 32, 32, 3), np.uint8)
    labels = np.arange(60) % 10
    np.savez(folder / "part.npz", x_train=pictures[:40], y_train=labels[:40], x_test=pictures[40:], y_test=labels[40:])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", [*PICTURES, *TEXTS])
def test_every_method_trains_it_or_says_what_it_needs(play: Player, root: Path, network: str, method: str) -> None:
    needed = {"mobilenet-v4-small": "timm", "bert": "transformers", "llama": "transformers"}.get(network)
    if needed and find_spec(needed) is None:  # not imported here: timm imports torchvision, which may need a mend first
        pytest.skip("the extra `networks`")
    data: dict[str, Any] = {"dataset": "npz:part.npz", "data_root": str(root)}
    if network in TEXTS:
        data = {"dataset": "sst2", "data_root": str(root), "vocabulary_size": 12, "sequence_length": 10}
    keys = RUN | data | {"model": (PICTURES | TEXTS)[network], "method": method}
    if method in OF_RANKS:
        keys |= {"tiers": "a:4, b:2"}
        if network in WITHOUT_LINEAR:
            with pytest.raises(SettingError, match=r"allowed is some linear layers of .* other than its head"):
                play(**keys)
            return
    refused = (method in IN_DEPTH and network in WITHOUT_BLOCKS) or (
        method == "splitmix" and network not in WITH_A_WIDTH
    )
    if refused:
        with pytest.raises(SettingError, match=r"model = .*: allowed is a network"):
            play(**keys)
        return
    out = play(**keys)
    assert out.rejected == []
    assert all(tensor.isfinite().all() for tensor in out.state.values())
    tiers = out.summary["last"]["tiers"]
    assert all(isfinite(tier["loss"]) for tier in out.rows[0]["tiers"].values())
    assert tiers["a"]["parameters"] >= tiers["b"]["parameters"]
