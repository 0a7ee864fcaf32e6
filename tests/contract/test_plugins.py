"""What is not built in gets every contract: found by import path and by entry point, refused with one line, resumed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Context

from client_app.app import app
from client_app.model_cache import local_model
from client_app.objectives import OBJECTIVES
from data import SOURCES
from flotilla.local.grid import LocalGrid, contexts
from flotilla.user_code import make_importable, packages_of
from models.algebra.plans import Plan
from models.errors import SettingError
from models.networks.registry import LIBRARIES, NETWORKS
from models.registry import Registry, following, prefix_of
from models.settings import Setting
from protocol.codecs import CODECS
from server_app.config.catalogue import foreign
from strategies import METHODS, HeteroFL
from strategies.aggregation import AGGREGATIONS
from strategies.clustering.options import CLUSTERINGS
from strategies.nodes.manager import NobodyAnswered
from strategies.selection import SELECTORS, selector
from tests.support import OF_ALL, Player, configured

ROOT = Path(__file__).parents[2]
LAB = ROOT / "tests/plugins/my_lab"
REGISTRIES: dict[str, tuple[Registry[Any], str]] = {
    "networks": (NETWORKS, "my_lab.networks:separable"),
    "datasets": (SOURCES, "my_lab.data:Stripes"),
    "methods": (METHODS, "my_lab.methods:FromOffset"),
    "selectors": (SELECTORS, "my_lab.selectors:InTurn"),
    "codecs": (CODECS, "my_lab.codecs:Bytes"),
    "aggregations": (AGGREGATIONS, "my_lab.aggregations:BySquareRoot"),
    "clusterings": (CLUSTERINGS, "my_lab.clusterings:ByParity"),
    "objectives": (OBJECTIVES, "my_lab.objectives:smoothed"),
}
# A run that names each of them; the method names the objective.
NAMED: dict[str, dict[str, Any]] = {
    "networks": {"model": "my_lab.networks:separable", "widths": ""},
    "function": {"model": "my_lab.networks:perceptron", "widths": "", "perceptron_hidden": 12},
    "datasets": {"dataset": "my_lab.data:Stripes", "stripes_noise": 0.5},
    "methods": {"method": "my_lab.methods:FromOffset", "from_offset_offset": 2},
    "selectors": {"selection": "my_lab.selectors:InTurn", "in_turn_stride": 3, "fraction_train": 0.5},
    "codecs": {"codec": "my_lab.codecs:Bytes"},
    "aggregations": {"aggregation": "my_lab.aggregations:BySquareRoot"},
    "clusterings": {"clustering": "my_lab.clusterings:ByParity"},
}
EVERYTHING = {key: value for keys in NAMED.values() for key, value in keys.items()}


@pytest.fixture(autouse=True)
def lab() -> Iterator[None]:
    make_importable(packages_of([LAB], ROOT))
    yield
    make_importable({})


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package as if it were installed: what offers it is its metadata."""
    info = tmp_path / "my_lab-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-lab\nVersion: 1.0\n")
    offers = [f"[flotilla.{kind}]\nlab-{kind} = {path}\n" for kind, (_, path) in REGISTRIES.items()]
    (info / "entry_points.txt").write_text("\n".join(offers))
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize("kind", REGISTRIES)
@pytest.mark.usefixtures("installed")
def test_three_ways_lead_to_the_same(kind: str) -> None:
    registry, path = REGISTRIES[kind]
    module, _, name = path.partition(":")
    assert type(registry[path]) is type(registry[f"lab-{kind}"])
    assert f"lab-{kind}" in registry.names()
    assert f"lab-{kind}" not in list(registry)  # what is built in stays what it is
    assert registry[next(iter(registry))] is not registry[path]
    assert prefix_of(path, object()) == {"FromOffset": "from-offset", "InTurn": "in-turn"}.get(name, name_of(name))
    assert module.startswith("my_lab.")


def name_of(attribute: str) -> str:
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in attribute).lstrip("-")


@pytest.mark.parametrize("kind", REGISTRIES)
def test_an_unknown_name_says_where_it_was_looked_for(kind: str) -> None:
    registry, path = REGISTRIES[kind]
    near = list(registry)[-1]
    with pytest.raises(SettingError) as caught:
        registry[near + "x"]
    line = str(caught.value)
    assert line.startswith(f"{registry.key} = '{near}x': allowed is one of {near}, ")
    by_libraries = f"by libraries: {len(LIBRARIES)}; " if kind == "networks" else ""
    offered = len(registry.names()) - len(registry) - (len(LIBRARIES) if kind == "networks" else 0)
    assert (
        f"(built in: {len(registry)}; {by_libraries}entry points of group flotilla.{kind}: {offered or 'none'})" in line
    )
    assert "import path" in line
    assert "\n" not in line
    with pytest.raises(SettingError, match=r"No module named 'my_laboratory'.*--with"):
        registry["my_laboratory.x:y"]
    with pytest.raises(SettingError, match=rf"a name that {path.partition(':')[0]} has"):
        registry[path + "x"]
    if kind != "objectives":  # anything that can be called may be one
        with pytest.raises(SettingError) as caught:
            registry["math:pi"]
        assert "this is 3.14" in str(caught.value)


@pytest.mark.parametrize("kind", NAMED)
def test_two_rounds_and_a_resumed_run(play: Player, kind: str) -> None:
    keys = {"num_clients": 4, "learning_rate_schedule": "constant", **NAMED[kind]}
    whole = play(**keys)
    assert not whole.rejected
    assert whole.summary["status"] == "finished"
    assert all(tensor.isfinite().all() for tensor in whole.state.values())
    assert all(isfinite(row["train_loss"]) for row in whole.rows)
    half = play(**keys | {"num_server_rounds": 1})
    assert play(**keys, resume=str(half.path)).hash == whole.hash


def test_all_together(play: Player) -> None:
    out = play(**EVERYTHING, num_clients=4)
    assert not out.rejected
    assert out.summary["status"] == "finished"


@pytest.mark.parametrize("method", OF_ALL)
def test_a_foreign_network_serves_every_method(play: Player, method: str) -> None:
    out = play(method=method, num_clients=3, num_server_rounds=1, **NAMED["networks"])
    assert not out.rejected
    assert all(tensor.isfinite().all() for tensor in out.state.values())


def test_depth_needs_exits() -> None:
    with pytest.raises(SettingError, match="a network with exits after its stages, for DepthFL"):
        configured(method="depthfl", **NAMED["function"])


# ---- options ---------------------------------------------------------------------------------------------------------


def test_options_are_keys() -> None:
    config = configured(**EVERYTHING)
    assert config.options == {"offset": 2, "smoothing": 0.1}
    assert config.data.files.option("noise") == 0.5
    assert dict(config.network.options) == {"hidden": 12}
    assert config.flat["in-turn-stride"] == 3
    assert type(config.network).from_json(config.network.to_json()) == config.network
    listed = {key.name: key for key in foreign(config.flat)}
    assert set(listed) == {
        "from-offset-offset",
        "from-offset-smoothing",
        "perceptron-hidden",
        "stripes-noise",
        "in-turn-stride",
        "causal-lm-config",  # of a network that only transformers can make
    }
    assert listed["stripes-noise"].words.startswith("standard deviation")


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"stripes_noise": 11.0}, r"^stripes-noise = 11\.0: allowed is 0 to 10"),
        ({"perceptron_hidden": "many"}, "^perceptron-hidden = 'many': allowed is a whole number"),
        ({"from_offset_offset": -1}, "^from-offset-offset = -1: allowed is 0 to 1000"),
        ({"in_turn_stride": 0}, "^in-turn-stride = 0: allowed is 1 to 100"),
        ({"in_turn_strid": 1}, "^in-turn-strid = 1: allowed is .*did you mean 'in-turn-stride'"),
        ({"method": "heterofl"}, "^from-offset-offset = 2: allowed is "),
    ],
)
def test_options_are_checked_at_the_door(keys: dict[str, Any], line: str) -> None:
    with pytest.raises(SettingError, match=line):
        configured(**EVERYTHING | keys)


PAIR: Any = (1, 2)
NOT_OPTIONS: dict[str, tuple[Any, str]] = {
    "a number": ({"mu": 0.1}, "; that of 'mu' is 0.1"),
    "a list": (["mu"], "; they are ['mu']"),
    "a pair": ({"mu": Setting(PAIR, "")}, " whose default is a number, a bool or a text; that of 'mu' is (1, 2)"),
}


@pytest.mark.parametrize("kind", ["networks", "datasets", "methods", "selectors"])
@pytest.mark.parametrize("options", NOT_OPTIONS)
def test_what_are_no_options_is_refused(monkeypatch: pytest.MonkeyPatch, kind: str, options: str) -> None:
    registry, path = REGISTRIES[kind]
    path = "my_lab.networks:perceptron" if kind == "networks" else path
    module, _, name = path.partition(":")
    what, line = NOT_OPTIONS[options]
    registry[path]
    monkeypatch.setattr(registry, "_loaded", {})
    monkeypatch.setattr(getattr(sys.modules[module], name), "OPTIONS", what)
    with pytest.raises(SettingError) as caught:
        registry[path]
    allowed = "one whose OPTIONS are a mapping of names to models.settings.Setting"
    assert str(caught.value) == f"{registry.key} = {path!r}: allowed is {allowed}{line}"


def test_a_method_has_its_parents_options(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = type("Mine", (HeteroFL,), {"OPTIONS": {"mu": Setting(0.1, "strength")}})
    METHODS["my_lab.methods:FromOffset"]
    monkeypatch.setattr(sys.modules["my_lab.methods"], "Mine", mine, raising=False)
    with pytest.raises(SettingError, match=r"\{\*\*HeteroFL.OPTIONS, …\}\); Mine lacks label-rows, token-rows$"):
        METHODS["my_lab.methods:Mine"]


def test_an_object_that_is_a_module_and_a_function_of_no_builder_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    NETWORKS["my_lab.networks:perceptron"]
    networks = sys.modules["my_lab.networks"]
    monkeypatch.setattr(networks, "made", torch.nn.Sequential(torch.nn.Flatten()), raising=False)
    with pytest.raises(SettingError, match=r"such as a class or a function; this is one of Sequential that is made"):
        NETWORKS["my_lab.networks:made"]
    for make, line in (
        (lambda hidden: torch.nn.Linear(hidden, 2), "one that can be made of a models.Builder, .*; TypeError: "),
        (lambda builder: builder.spec, "one that gives a torch.nn.Module, not a NetworkSpec"),
    ):
        monkeypatch.setattr(networks, "made", make)
        monkeypatch.setattr(NETWORKS, "_loaded", {})
        with pytest.raises(SettingError, match=f"^model = 'my_lab.networks:made': allowed is {line}"):
            configured(model="my_lab.networks:made", widths="")


def test_a_selector_takes_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    in_turn = SELECTORS["my_lab.selectors:InTurn"]
    monkeypatch.setattr(in_turn, "OPTIONS", {"steps": Setting(1, "no parameter of it")})
    with pytest.raises(
        SettingError, match=r"InTurn': allowed is one that its OPTIONS make, by keyword; TypeError: .*steps"
    ):
        selector("my_lab.selectors:InTurn")


# ---- what a device allows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "follows"),
    [
        ("*", True),
        ("my_lab.*", True),
        ("my_lab.networks:separable", True),
        ("other.nets:make, my_lab.networks:*", True),
        ("", False),
        ("my_la", False),
        ("my_lab.data:*, my_lab_2.*", False),
    ],
)
def test_a_device_follows_what_it_allows(patterns: str, follows: bool) -> None:
    with following([pattern.strip() for pattern in patterns.split(",")]):
        if follows:
            NETWORKS["my_lab.networks:separable"]
            return
        with pytest.raises(SettingError, match=r"owner allows.*allow=\"my_lab\.\*\""):
            NETWORKS["my_lab.networks:separable"]


def test_a_model_that_is_kept_is_refused_to_whoever_may_not_follow_its_path() -> None:
    network = configured(**NAMED["networks"], num_clients=3).strategy().network
    first = local_model(network, Plan(), torch.device("cpu"))
    assert local_model(network, Plan(), torch.device("cpu")) is first
    with following(["other.*"]), pytest.raises(SettingError, match="owner allows"):
        local_model(network, Plan(), torch.device("cpu"))


@pytest.mark.parametrize("kind", ["networks", "datasets", "codecs"])
@pytest.mark.parametrize("allow", [None, "other.*"])
def test_devices_refuse_what_they_do_not_allow(kind: str, allow: str | None) -> None:
    """As in a deployment, where a node config says nothing of it or something else."""
    config = configured(**NAMED[kind], num_clients=3)

    def nodes() -> dict[int, Context]:
        found = contexts(config.flat, 3)
        for context in found.values():
            del context.node_config["allow"]
            context.node_config |= {} if allow is None else {"allow": allow}
        return found

    strategy = config.strategy()
    with pytest.raises(NobodyAnswered) as caught:
        strategy.start(LocalGrid(app, nodes()), ArrayRecord(dict(strategy.state)), num_rounds=1)
    line = str(caught.value)
    assert "my_lab." in line
    assert "node config: allow=" in line
    assert "\n" not in line
    METHODS["my_lab.methods:FromOffset"]  # what the server does is its own affair


def test_one_device_that_does_not_allow_it_is_named(play: Player) -> None:
    config = configured(**NAMED["networks"], num_clients=3)
    nodes = contexts(config.flat, 3)
    refusing = list(nodes)[1]
    nodes[refusing].node_config["allow"] = ""
    out = play(nodes=nodes, **NAMED["networks"], num_clients=3)
    assert [sorted(row["selected"]) for row in out.rows] == [[0, 2]] * 2
    assert all("owner allows" in one["reason"] and str(refusing) in one["reason"] for one in out.rejected)
    assert out.rejected
