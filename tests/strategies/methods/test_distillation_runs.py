"""Whole runs of methods that distil: a weight of 0 is no distillation, and without it they are what they extend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from data.node import node_data
from models import Plan, build_part, initial_state, submodel, torch_generator
from models.predictions import predictions
from strategies import DepthFL
from tests.corpora import write_sst2
from tests.support import Player, configured, half_of

THREE: dict[str, Any] = {"widths": "12, 12, 12", "fraction_train": 0.7, "num_server_rounds": 3}  # stages of an mlp


# ---- weight 0 --------------------------------------------------------------------------------------------------------


def test_scalefl_with_weight_0_is_scalefl_that_never_distils(play: Player) -> None:
    off = play(method="scalefl", scalefl_distillation=0.0, scalefl_distillation_after=0.0, **THREE)
    never = play(method="scalefl", scalefl_distillation_after=1.0, **THREE)
    assert off.hash == never.hash
    from_the_start = play(method="scalefl", scalefl_distillation_after=0.0, **THREE)
    assert from_the_start.hash != off.hash
    # A third of three rounds goes by first: the first is as without, the others are not.
    later = play(method="scalefl", scalefl_variant="paper", scalefl_distillation_after=1 / 3, **THREE)
    assert [row["train_loss"] for row in later.rows[:1]] == [row["train_loss"] for row in off.rows[:1]]
    assert later.rows[1]["train_loss"] != off.rows[1]["train_loss"]


def test_depthfl_with_weight_0_is_depthfl_without_distillation(play: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    without, distilled = (play(method="depthfl", depthfl_distillation=on, **THREE) for on in (False, True))
    monkeypatch.setattr(DepthFL, "distillation_weight", lambda self, round_number: 0.0)
    assert play(method="depthfl", **THREE).hash == without.hash != distilled.hash


def test_fjord_with_weight_0_learns_from_labels_only(play: Player) -> None:
    """α = 0: the widest part and the drawn one by cross entropy each, so the teacher's temperature is of no interest.

    That is not the run without distillation, which trains the drawn part alone.
    """
    keys: dict[str, Any] = {"method": "fjord", **THREE}
    zero = [
        play(fjord_distillation=True, fjord_alpha=0.0, fjord_temperature=temperature, **keys).hash
        for temperature in (1.0, 5.0)
    ]
    assert zero[0] == zero[1]
    taught = [play(fjord_distillation=True, fjord_temperature=temperature, **keys).hash for temperature in (1.0, 5.0)]
    assert len({zero[0], *taught, play(**keys).hash}) == 4


def test_fjord_with_one_width_has_nobody_to_teach(play: Player) -> None:
    keys: dict[str, Any] = {"method": "fjord", "tiers": "a:1", **THREE}
    assert play(fjord_distillation=True, **keys).hash == play(**keys).hash


# ---- DepthFL without what it adds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [{"widths": "12, 10, 8"}, {"model": "cnn", "widths": "4, 6, 8, 8"}])
def test_depthfl_at_one_depth_is_the_plain_mean_of_a_net_with_exits(play: Player, network: dict[str, Any]) -> None:
    """I10, transcribed: every client minimises the sum of its exits' cross entropies; the server takes the plain mean.

    A batch is all that a client has, so no order matters; clients have unlike numbers of examples, and count the same.
    """
    keys: dict[str, Any] = {
        **network,
        "method": "depthfl",
        "exits": "plain",
        "tiers": "a:1",
        "depthfl_distillation": False,
        "dynamic_alpha": "0",
        "norm": "none",
        "partition": "dirichlet",
        "batch_size": 2000,
        "local_epochs": 3,
        "clip_norm": 0.0,
        "num_clients": 4,
    }
    out, config = play(**keys), configured(**keys)
    spec, rule = config.network, config.settings.schedule.optimiser(1)
    state = initial_state(spec, torch_generator(config.data.seed, 0, "server", "initial state"))
    begin = {name: tensor.clone() for name, tensor in state.items()}
    assert len({len(node_data(config.data, node).train) for node in range(4)}) > 1
    for _ in range(config.rounds):
        trained: list[dict[str, Tensor]] = []
        for node in range(4):
            examples, net = node_data(config.data, node).train, build_part(spec, Plan())
            net.load_state_dict(submodel(spec, Plan()).gather(state))
            sgd = torch.optim.SGD(net.parameters(), rule.learning_rate, rule.momentum, weight_decay=rule.weight_decay)
            for _ in range(3):
                sgd.zero_grad()
                exits = predictions(net, examples.inputs)
                torch.stack([F.cross_entropy(logits, examples.labels) for logits in exits]).sum().backward()  # type: ignore[no-untyped-call]
                sgd.step()
            trained.append({name: tensor.clone() for name, tensor in net.state_dict().items()})
        state = {name: torch.stack([one[name] for one in trained]).mean(0) for name in state}
    assert out.state.keys() == state.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(out.state[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
        assert not torch.allclose(begin[name], tensor, rtol=1e-3, atol=1e-4)


# ---- InclusiveFL's momentum ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("network", ["transformer", "vit"])
@pytest.mark.parametrize("own", [True, False])
def test_momentum_acts_in_whole_runs_on_transformers(play: Player, tmp_path: Path, network: str, own: bool) -> None:
    keys: dict[str, Any] = {
        "method": "inclusivefl",
        "model": network,
        "widths": "8, 16",
        "blocks": "3",
        "heads": 2,
        "num_clients": 4,
        "inclusivefl_private_last_layer": own,
        "tiers": "large:1@3, middle:1@2, small:1@1",
        "num_server_rounds": 3,
    }
    if network == "transformer":
        write_sst2(tmp_path)
        keys |= {
            "dataset": "sst2",
            "data_root": str(tmp_path),
            "vocabulary_size": 12,
            "sequence_length": 10,
            "batch_size": 8,
        }
    auto = play(**keys)
    assert auto.rejected == []
    assert all(tensor.isfinite().all() for tensor in auto.state.values())
    assert auto.hash == play(inclusivefl_momentum="0.2", **keys).hash
    assert len({auto.hash, *(play(inclusivefl_momentum=beta, **keys).hash for beta in ("0", "0.5"))}) == 3
    half = half_of(play, 2, **keys)
    assert play(**keys, resume=str(half.path)).hash == auto.hash
