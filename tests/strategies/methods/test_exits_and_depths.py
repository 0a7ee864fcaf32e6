"""What a method's exits, depths and momentum can be is said before anything starts; nothing is silently replaced."""

from __future__ import annotations

import logging
from fractions import Fraction
from typing import Any

import pytest

from models import NetworkSpec, SettingError
from strategies import DepthFL, HeteroFL, InclusiveFL, ScaleFL, Settings, parse_tiers
from strategies.tiers.tier import Tier
from tests.support import OF_ALL, Player, configured

CNN: dict[str, Any] = {"model": "cnn", "widths": "4, 8, 8, 8"}
SPEC = NetworkSpec("cnn", (1, 8, 8), 5, widths=(4, 4, 4, 4))
SEVERAL = {"depthfl", "depthfl-exclusive", "inclusivefl", "scalefl"}  # methods that train more than the last exit
BY_STAGE = {"blockwise"}  # methods that train one exit after the other


def refusal(**keys: Any) -> SettingError:
    with pytest.raises(SettingError) as caught:
        configured(**keys)
    assert "\n" not in str(caught.value)
    return caught.value


# ---- exits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", OF_ALL)
@pytest.mark.parametrize("exits", ["last", "plain", "bottleneck", "convolutional", "shared"])
def test_explicit_exits_are_used_or_refused(method: str, exits: str) -> None:
    """An exit that no objective trains would be scored and drag the ensemble down; another one would be a surprise."""
    allowed = {"plain", "bottleneck", "convolutional"} if method in SEVERAL else {"last"}
    allowed = {"plain"} if method in BY_STAGE else allowed
    if exits in allowed:
        assert configured(method=method, exits=exits, **CNN).network.exits == exits
    elif exits == "shared":  # this network cannot have one, whoever trains it
        assert refusal(method=method, exits=exits, **CNN).key == "exits"
    else:
        error = refusal(method=method, exits=exits, **CNN)
        assert (error.key, error.value) == ("exits", exits)
        assert error.allowed.startswith("one of auto, ")
        assert all(kind in error.allowed for kind in allowed)


def test_what_auto_exits_are() -> None:
    kinds = {
        "depthfl": "bottleneck",
        "depthfl-exclusive": "bottleneck",
        "inclusivefl": "plain",
        "scalefl": "convolutional",
        "blockwise": "plain",
    }
    assert {method: configured(method=method, **CNN).network.exits for method in OF_ALL} == {
        method: kinds.get(method, "last") for method in OF_ALL
    }
    assert configured(method="depthfl").network.exits == "plain"  # an mlp has no place for a bottleneck


def test_inclusivefls_shared_exit_goes_with_a_shared_classifier() -> None:
    keys: dict[str, Any] = {"method": "inclusivefl", "widths": "8, 8"}
    assert refusal(exits="shared", model="vit", blocks="2", heads=2, **keys).key == "exits"
    keys |= {"inclusivefl_private_classifier": False, "model": "vit", "blocks": "2", "heads": 2}
    assert configured(**keys).network.exits == configured(exits="shared", **keys).network.exits == "shared"
    assert "auto, shared" in refusal(exits="plain", **keys).allowed


def test_a_classifier_that_stages_cannot_share() -> None:
    error = refusal(method="inclusivefl", inclusivefl_private_classifier=False, **CNN)
    assert (error.key, error.value) == ("inclusivefl-private-classifier", False)
    assert "'cnn', whose stages differ in width" in error.allowed


def test_unknown_exits() -> None:
    assert refusal(exits="middle").allowed == "one of auto, last, plain, bottleneck, convolutional, shared"


def test_a_strategy_by_itself_has_the_same_rules() -> None:
    assert DepthFL(SPEC).network.exits == "bottleneck"
    assert HeteroFL(SPEC).network.exits == "last"
    with pytest.raises(SettingError, match="one of auto, last for HeteroFL"):
        HeteroFL(NetworkSpec("cnn", (1, 8, 8), 5, widths=(4, 4, 4, 4), exits="plain"))


# ---- depths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", OF_ALL)
def test_a_depth_that_the_network_does_not_have(method: str) -> None:
    error = refusal(method=method, tiers="a:1@9, b:1/2", **CNN)
    assert error.key == "tiers"
    assert "1 to 4 for 'cnn' ('a' has 9)" in str(error)
    assert configured(method=method, tiers="a:1@4, b:1/2@1", **CNN).settings.tiers[1].depth == 1


def test_depths_say_nothing_where_tiers_differ_in_width() -> None:
    wide, narrow = parse_tiers("a:1@1, b:1/2@4")
    settings = Settings(tiers=(wide, narrow))
    assert HeteroFL(SPEC, settings).can_hold(HeteroFL(SPEC, settings).context(1), wide, narrow)
    for strategy in (ScaleFL(SPEC, settings), DepthFL(SPEC, settings)):
        assert not strategy.can_hold(strategy.context(1), wide, narrow)
    assert DepthFL(SPEC, settings).can_hold(DepthFL(SPEC, settings).context(1), narrow, wide)


def test_the_global_network_is_as_deep_as_somebody_trains_it() -> None:
    tiers = parse_tiers("a:1@2, b:1@1")
    whole = Tier("global", Fraction(1))
    for strategy in (DepthFL(SPEC, Settings(tiers=tiers)), InclusiveFL(SPEC, Settings(tiers=tiers))):
        assert strategy.context(1).depth_of(whole) == 2
        assert strategy.kept_plan(strategy.context(1), whole) == strategy.kept_plan(strategy.context(1), tiers[0])
    scaled = ScaleFL(SPEC, Settings(tiers=parse_tiers("a:1@1, b:1/2@3, c:1/4@3")))
    plan = scaled.kept_plan(scaled.context(1), Tier("global", scaled.global_rate(scaled.context(1))))
    assert (plan.rate, plan.depth) == (Fraction(1, 2), 3)


def test_global_metrics_are_those_of_a_trained_exit(play: Player) -> None:
    """Nobody holds the last two of four stages: their exit guesses, one time in ten."""
    out = play(method="depthfl", tiers="a:1@2, b:1@1", num_server_rounds=4, local_epochs=4, batch_size=16, **CNN)
    row = out.rows[-1]
    assert row["accuracy"] == row["tiers"]["a"]["accuracy"] > 0.3


# ---- momentum distillation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "network", [{"model": "cnn", "widths": "4, 6, 8, 10"}, {"model": "mlp"}, {"model": "resnet", "widths": ""}]
)
def test_momentum_is_off_by_itself_where_no_layer_could_teach(
    network: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    strategy = configured(method="inclusivefl", **network).strategy()
    assert isinstance(strategy, InclusiveFL)
    assert strategy.momentum(strategy.context(1)) == 0
    logging.getLogger("flwr").propagate = True
    with caplog.at_level(logging.INFO, "flwr"):
        strategy.summary()
    assert sum("no momentum distillation" in line for line in caplog.messages) == 1
    error = refusal(method="inclusivefl", inclusivefl_momentum="0.2", **network)
    assert (error.key, error.value) == ("inclusivefl-momentum", "0.2")
    assert '"auto" or "0"' in error.allowed
    assert configured(method="inclusivefl", inclusivefl_momentum="0", **network).strategy()


@pytest.mark.parametrize(
    "network", [{"model": "vit", "widths": "8, 8", "blocks": "3", "heads": 2}, {"widths": "8, 8, 8"}]
)
def test_momentum_is_the_papers_where_layers_can_teach(network: dict[str, Any]) -> None:
    for given, beta in (("auto", 0.2), ("0.5", 0.5), (0.5, 0.5), (0, 0.0), ("0", 0.0), ("1", 1.0)):
        strategy = configured(method="inclusivefl", inclusivefl_momentum=given, **network).strategy()
        assert isinstance(strategy, InclusiveFL)
        assert strategy.momentum(strategy.context(1)) == beta
    for wrong in ("much", "nan", "inf", "-0.1", "1.1", True):
        assert refusal(method="inclusivefl", inclusivefl_momentum=wrong, **network).key == "inclusivefl-momentum"


def test_one_size_has_nobody_to_learn_from() -> None:
    network: dict[str, Any] = {"model": "vit", "widths": "8, 8", "blocks": "3", "heads": 2, "tiers": "a:1"}
    strategy = configured(method="inclusivefl", **network).strategy()
    assert isinstance(strategy, InclusiveFL)
    assert strategy.momentum(strategy.context(1)) == 0
    assert refusal(method="inclusivefl", inclusivefl_momentum="0.2", **network).key == "inclusivefl-momentum"


# ---- FedDyn's strength -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", ["nan", "inf", "-inf", "-0.1", "strong", ""])
def test_a_strength_that_is_none(alpha: str) -> None:
    error = refusal(dynamic_alpha=alpha)
    assert (error.key, error.value) == ("dynamic-alpha", alpha)
    if alpha in ("nan", "inf"):
        with pytest.raises(SettingError, match="dynamic-alpha"):
            Settings(dynamic_alpha=float(alpha))
