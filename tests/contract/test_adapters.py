"""Every selector and codec once with an adapter, plug-ins too: by a rule that needs each device's factors, resumed."""

from __future__ import annotations

from math import isfinite
from typing import Any

import pytest
import torch

from models.networks.bases import first_state
from protocol.codecs import CODECS
from strategies.selection import SELECTORS
from tests.plugins.registered import LAB
from tests.support import Outcome, Player, configured, half_of

# What a device's wall seconds count in a selector is no other run's.
KEYS: dict[str, Any] = {
    "method": "flexlora",
    "fraction_train": 0.7,
    "num_server_rounds": 3,
    "selection_lateness_exponent": 0.0,
}
EVERY_SELECTOR = [*SELECTORS, f"{LAB}.selectors:InTurn"]
EVERY_CODEC = [*CODECS, f"{LAB}.codecs:Bytes"]


def held(out: Outcome, keys: dict[str, Any]) -> None:
    """It finished, nobody was turned away, and every tensor that is trained moved."""
    first = first_state(configured(**keys).network, 1)
    assert out.summary["status"] == "finished"
    assert out.rejected == []
    assert all(isfinite(row["train_loss"]) for row in out.rows)
    assert out.state.keys() == first.keys()
    assert all(tensor.isfinite().all() and not torch.equal(tensor, first[name]) for name, tensor in out.state.items())


@pytest.mark.parametrize("selection", EVERY_SELECTOR)
def test_every_selector(play: Player, selection: str) -> None:
    keys = KEYS | {"selection": selection}
    out = play(**keys)
    held(out, keys)
    assert play(**keys, resume=str(half_of(play, 1, **keys).path)).hash == out.hash


@pytest.mark.parametrize("codec", EVERY_CODEC)
def test_every_codec(play: Player, codec: str) -> None:
    keys = KEYS | {"codec": codec, "codec_small": 10, "codec_share": 0.5}
    out = play(**keys)
    held(out, keys)
    assert play(**keys, resume=str(half_of(play, 1, **keys).path)).hash == out.hash
