"""What a run leaves is enough: every tier of every method, loaded from the folder alone, repeats what was reported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import flotilla
from data import DataSettings
from data import load as load_data
from flotilla.serving.load import CannotLoad
from models.evaluation import evaluate
from models.networks.build import build_part
from protocol import Scalar
from tests.support import OF_ALL, Outcome, Player, configured


def reported(out: Outcome) -> dict[str, float | None]:
    last = out.summary["last"]
    return {"global": last["accuracy"], **{name: tier["accuracy"] for name, tier in last["tiers"].items()}}


def repeated(run: Path, tiers: list[str], **settings: Scalar) -> dict[str, float]:
    test = load_data(DataSettings(**settings)).test  # type: ignore[arg-type]
    return {tier: evaluate(flotilla.load(run, tier), test.inputs, test.labels).accuracy for tier in tiers}


@pytest.mark.parametrize("method", OF_ALL)
def test_every_tier_repeats_its_accuracy(play: Player, method: str) -> None:
    out = play.once(method=method)
    wanted = reported(out)
    assert repeated(out.path, list(wanted)) == wanted


@pytest.mark.parametrize("method", OF_ALL)
def test_a_tier_is_of_its_own_size(play: Player, method: str) -> None:
    out = play.once(method=method)
    strategy = configured(method=method).strategy()
    for tier in strategy.settings.tiers:
        model = flotilla.load(out.path, tier.name)
        part = build_part(strategy.network, strategy.kept_plan(strategy.context(2), tier))
        mine, theirs = (
            {name: tensor.shape for name, tensor in one.state_dict().items()} for one in (model.network, part)
        )
        assert mine == theirs
        assert not any(module.training for module in model.modules())
        assert len(model.classes) == 10


CASES: dict[str, dict[str, Scalar]] = {
    "static batch norm": {"model": "cnn", "widths": "4, 8, 8, 8"},
    "norms by width": {"model": "cnn", "widths": "4, 8, 8, 8", "norm": "batch-per-width"},
    "exits": {"model": "cnn", "widths": "4, 8, 8, 8", "method": "depthfl"},
    "nets": {"model": "cnn", "widths": "8, 8, 8, 8", "method": "splitmix"},
    "private norms": {"model": "resnet", "widths": "4, 8, 8, 8", "method": "nefl"},
    "masks": {"model": "cnn", "widths": "4, 8, 8, 8", "method": "fiarse"},
    "random units": {"model": "cnn", "widths": "4, 8, 8, 8", "method": "dropout"},
    "dual norms": {
        "model": "cnn",
        "widths": "4, 8, 8, 8",
        "adversarial": 0.5,
        "adversarial_steps": 1,
        "robust_mix": 0.3,
    },
    "IFCA": {"model": "cnn", "widths": "4, 8, 8, 8", "clustering": "ifca", "synthetic_groups": "rotations:2"},
}


@pytest.mark.parametrize("case", list(CASES))
def test_every_kind_of_state_repeats_its_accuracy(play: Player, case: str) -> None:
    out = play.once(**CASES[case])
    wanted = {tier: accuracy for tier, accuracy in reported(out).items() if accuracy is not None}
    assert len(wanted) >= 2
    assert repeated(out.path, list(wanted)) == wanted


def test_what_has_no_accuracy_says_why(play: Player) -> None:
    out = play.once(**CASES["IFCA"])  # nobody in the larger cluster can hold the widest part
    for tier in (tier for tier, accuracy in reported(out).items() if accuracy is None):
        with pytest.raises(CannotLoad, match="no node that can hold it gave statistics"):
            flotilla.load(out.path, tier)


def test_every_cluster_has_networks(play: Player) -> None:
    out = play.once(**CASES["IFCA"])
    state = out.state
    for cluster in (0, 1):
        model = flotilla.load(out.path, "c", cluster=cluster)
        name = next(name for name in model.network.state_dict() if "classifier" in name and name.endswith("bias"))
        assert torch.equal(model.network.state_dict()[name], state[f"cluster{cluster}/{name}"])
    with pytest.raises(CannotLoad, match="no cluster 2: it has 0, 1"):
        flotilla.load(out.path, "c", cluster=2)
