"""An ordinary module by import path: no line of it knows of this project, and methods run on it as on our own."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import flotilla
from data import DataSettings
from data import load as load_data
from flotilla.serving.export import export
from flotilla.serving.load import CannotLoad
from flotilla.serving.predict import predict
from models import NetworkSpec, completed
from models.errors import SettingError
from models.evaluation import evaluate
from models.networks.build import layout
from models.networks.registry import NETWORKS
from models.registry import following
from strategies import METHODS
from tests.support import OF_ALL, Player, configured

RESIDUAL = "tests.models.foreign.nets:Residual"
EDGE: dict[str, Any] = {"model": "tests.models.foreign.nets:Edge", "widths": ""}
IN_DEPTH = {name for name in METHODS if "last" not in METHODS[name].PREFERENCES.exits}
RUN: dict[str, Any] = {**EDGE, "num_clients": 3, "num_server_rounds": 1, "batch_size": 64, "tiers": "a:1, b:1/2, c:1/4"}
QUICK = {"heterofl", "fedrolex", "dropout", "fiarse", "fjord"}


def _methods() -> list[Any]:
    marks = {name: [] if name in QUICK else [pytest.mark.slow] for name in OF_ALL}
    return [pytest.param(name, marks=marks[name]) for name in OF_ALL if name not in {*IN_DEPTH, "splitmix"}]


@pytest.mark.parametrize("method", _methods())
def test_every_method_of_width_trains_it(play: Player, method: str) -> None:
    out = play.once(**RUN, method=method)
    assert out.rejected == []
    assert all(tensor.isfinite().all() for tensor in out.state.values())
    tiers = out.rows[0]["tiers"]
    assert all(isfinite(tier["loss"]) for tier in tiers.values())
    last = out.summary["last"]["tiers"]
    if method in QUICK - {"fiarse"}:
        assert last["a"]["parameters"] > last["b"]["parameters"] > last["c"]["parameters"]
        assert last["a"]["macs"] > last["b"]["macs"] > last["c"]["macs"]


def test_ordered_dropout_narrows_a_module_with_constants(play: Player) -> None:
    """They are in no state, and a narrower pass needs its own."""
    out = play(**RUN | {"model": "tests.models.foreign.nets:Shifted"}, method="fjord")
    assert out.rejected == []


def _in_depth() -> list[Any]:
    marks = {name: [] if name in ("depthfl", "nefl") else [pytest.mark.slow] for name in OF_ALL}
    return [pytest.param(name, marks=marks[name]) for name in OF_ALL]


@pytest.mark.parametrize("method", _in_depth())
def test_every_method_trains_a_residual_network(play: Player, method: str) -> None:
    model = {"splitmix": "tests.models.foreign.nets:Scaled"}.get(method, RESIDUAL)
    out = play(**RUN | {"model": model}, method=method)
    assert out.rejected == []
    assert all(tensor.isfinite().all() for tensor in out.state.values())
    tiers = out.summary["last"]["tiers"]
    if method in {*IN_DEPTH, "nefl", "splitmix"} - {
        "depthfl-exclusive",
        "blockwise",
    }:  # of these two tiers do not differ
        assert tiers["a"]["parameters"] > tiers["c"]["parameters"]
        assert tiers["a"]["macs"] > tiers["c"]["macs"]


@pytest.mark.slow
@pytest.mark.parametrize("net", ["Layers", "layers_last"])
@pytest.mark.parametrize("method", ["depthfl", "inclusivefl", "nefl"])
def test_a_transformer_is_cut_between_its_layers(play: Player, method: str, net: str) -> None:
    in_depth = {"nefl_mode": "depth", "tiers": "a:1, b:3/4, c:9/20"} if method == "nefl" else {}
    out = play(**RUN | {"model": f"tests.models.foreign.nets:{net}"} | in_depth, method=method)
    assert out.rejected == []
    told = out.summary["last"]["tiers"]
    assert told["a"]["parameters"] > told["b"]["parameters"] > told["c"]["parameters"]


@pytest.mark.slow
def test_one_classifier_for_all_depths(play: Player) -> None:
    keys = RUN | {"inclusivefl_private_classifier": False, "method": "inclusivefl"}
    out = play(**keys | {"model": "tests.models.foreign.nets:Layers"})
    assert out.rejected == []
    assert not [name for name in out.state if name.startswith("added_exits.")]
    with pytest.raises(SettingError, match="inclusivefl-private-classifier = False: allowed is true for"):
        configured(**keys | {"model": RESIDUAL})


@pytest.mark.slow
def test_modules_after_which_it_can_end_are_named() -> None:
    named = configured(**RUN | {"model": RESIDUAL, "blocks": "first.0, first, second"}, method="depthfl").network
    assert layout(named).exits == {1, 2, 3}
    with pytest.raises(SettingError, match=r"blocks = 'first.0.conv1.weight, second': allowed is modules whose output"):
        configured(**RUN | {"model": RESIDUAL, "blocks": "first.0.conv1.weight, second"}, method="depthfl")
    with pytest.raises(SettingError, match="blocks = 'first': allowed is whole numbers"):
        configured(**RUN | {"model": "cnn", "blocks": "first"}, method="heterofl")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["heterofl", "fedrolex", "fjord", "dropout"])
def test_groups_of_axes_that_were_found_have_rates_of_their_own(play: Player, method: str) -> None:
    tiers = "a:1, b:inner=1/2, c:inner=1/4,stream=1/2"
    out = play(**RUN | {"model": RESIDUAL, "tiers": tiers}, method=method)
    assert out.rejected == []
    told = out.summary["last"]["tiers"]
    assert told["a"]["parameters"] > told["b"]["parameters"] > told["c"]["parameters"]
    assert told["a"]["macs"] > told["b"]["macs"] > told["c"]["macs"]
    with pytest.raises(SettingError, match=r"groups of axes that the network has \('mlp'\): inner, stream"):
        configured(**RUN | {"model": RESIDUAL, "tiers": "a:1, b:mlp=1/2"}, method=method)


def test_a_factory_without_a_width_is_refused() -> None:
    with pytest.raises(SettingError, match=r"whose factory has `width` \(a multiple of 4\) or `width_mult`"):
        configured(**RUN | {"model": RESIDUAL}, method="splitmix")


@pytest.mark.parametrize(("method", "key"), [*((name, "model") for name in sorted(IN_DEPTH)), ("splitmix", "model")])
def test_what_it_has_not_is_refused_at_the_door(method: str, key: str) -> None:
    with pytest.raises(SettingError, match=f"{key} = 'tests.models.foreign.nets:Edge': allowed is a network"):
        configured(**RUN, method=method)


def test_a_network_of_which_nothing_can_be_cut_is_refused_where_tiers_are_narrow() -> None:
    keys = {**RUN, "model": "tests.models.foreign.nets:Whole"}
    with pytest.raises(SettingError, match="a network that can be cut in width, for HeteroFL"):
        configured(**keys, method="heterofl")
    configured(**keys | {"tiers": "a:1"}, method="heterofl")


def test_a_device_that_finds_other_layers_says_so() -> None:
    spec = completed(NetworkSpec(EDGE["model"], (1, 8, 8), 10))
    assert len(spec.fingerprint) == 16
    other = NetworkSpec.from_json(spec.to_json().replace(spec.fingerprint, "0" * 16))
    with pytest.raises(SettingError, match="the same layers here and at the server"):
        layout(other)


def test_a_device_follows_only_what_its_owner_allows() -> None:
    with following(["my_lab.*"]), pytest.raises(SettingError, match="what this device's owner allows"):
        completed(NetworkSpec(EDGE["model"], (1, 8, 9), 10))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tests.models.foreign.nets:Wide", r"one that gives logits \(N, 10\); this gives \(N, 3\)"),
        ("tests.models.foreign.nets:broken", r"one that can be made; RuntimeError: no such file"),
        ("tests.models.foreign.nets:nothing", r"one that gives a torch.nn.Module, not a int"),
        ("tests.models.foreign.nets:Branching", r"it branches on data at nets\.py:\d+ \(return y if y"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_one_line(name: str, reason: str) -> None:
    with pytest.raises(SettingError, match=reason) as refused:
        completed(NetworkSpec(name, (1, 8, 8), 10))
    assert "\n" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["heterofl", pytest.param("fjord", marks=pytest.mark.slow)])
def test_a_finished_run_of_it_is_loaded_and_exported(play: Player, tmp_path: Path, method: str) -> None:
    """Every tier, from the folder and through both kinds of file, with the accuracy that the run reported."""
    pytest.importorskip("onnxruntime", reason="the extra `export`")
    out = play.once(**RUN, method=method)
    with pytest.raises(CannotLoad, match="which is code: load"):
        flotilla.load(out.path, "b")
    test = load_data(DataSettings()).test
    for tier, told in out.summary["last"]["tiers"].items():
        model = flotilla.load(out.path, tier, allow=["tests.*"])
        assert evaluate(model, test.inputs, test.labels).accuracy == told["accuracy"]
        for to in ("safetensors", "onnx") if tier == "c" else ("safetensors",):
            (row,) = export(out.path, tier, to, tmp_path, allow=["tests.*"])
            assert row.accuracy == told["accuracy"]
            assert row.parameters == told["parameters"]
    again = flotilla.load(tmp_path / "tier-c.safetensors", allow=["tests.*"])
    assert torch.equal(again(test.inputs[:3]), model(test.inputs[:3]))
    predicted = list(predict(again, [_picture(tmp_path)]))
    assert [one.name for one in predicted] == [again.classes[int(again(again.preprocess(_picture(tmp_path))).argmax())]]


def _picture(folder: Path) -> Path:
    Image.new("L", (8, 8), 90).save(folder / "grey.png")
    return folder / "grey.png"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet-18", "mobilenet-v3-small", "mobilenet-v4-small", "vit-tiny"])
def test_networks_of_libraries_are_exported(play: Player, tmp_path: Path, model: str) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `export`")
    if model in ("mobilenet-v4-small", "vit-tiny"):
        pytest.importorskip("timm", reason="the extra `networks`")
    out = play(**RUN | {"model": model, "tiers": "a:1/4, b:1/8", "num_clients": 2, "local_steps": 4, "batch_size": 16})
    for to in ("safetensors", "onnx"):
        rows = export(out.path, "all", to, tmp_path)
        wanted = {tier: told["accuracy"] for tier, told in out.summary["last"]["tiers"].items()}
        assert {row.tier: row.accuracy for row in rows} == wanted


@pytest.mark.parametrize(("name", "key"), [("Hyphened", "hyphened-hidden-units"), ("loose", "loose-hidden-units")])
def test_an_options_hyphens_are_underscores_of_parameters(name: str, key: str) -> None:
    config = configured(**RUN | {"model": f"tests.models.foreign.nets:{name}", key.replace("-", "_"): 12})
    assert config.flat[key] == 12
    assert sorted(axis.size for axis in layout(config.network).axes.values() if axis.kind.cut) == [12]


def test_a_width_by_an_option_of_two_words_is_divided() -> None:
    name = "tests.models.foreign.nets:Hyphened"
    spec = NetworkSpec(name, (1, 8, 8), 10, options=(("width-mult", 1.0), ("hidden-units", 8)))
    network = NETWORKS[name]
    assert network.narrower is not None
    narrower = network.narrower(spec, 2)
    assert narrower is not None
    assert dict(narrower.options) == {"width-mult": 0.5, "hidden-units": 8}


def test_a_parameter_that_nobody_tells_is_named() -> None:
    with pytest.raises(
        SettingError, match=r"of its OPTIONS, .*; of this one's parameters there are also depth, without"
    ):
        NETWORKS["tests.models.foreign.nets:tall"]
