"""Bad input: one line that names the key, the value and what is allowed, before anything starts."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, ClassVar

import pytest

from data import SCHEMES, SOURCES
from models.errors import SettingError
from models.networks.registry import NETWORKS
from models.norms.layers import NORMS
from models.settings import Setting
from protocol import Scalar
from protocol.codecs import CODECS, CodecSettings
from server_app.config import advanced, defaults, resolve
from server_app.config.catalogue import keys as listed
from strategies import METHODS, HeteroFL
from strategies.aggregation import AGGREGATIONS
from strategies.selection import SELECTORS, Oort
from tests.support import TINY, configured, keys_of, run_of

ROOT = Path(__file__).parents[3]


def refusal(**keys: Any) -> SettingError:
    with pytest.raises(SettingError) as caught:
        resolve(keys_of(**keys))
    line = str(caught.value)
    assert "\n" not in line
    assert "allowed is" in line
    return caught.value


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("method", "heterfl", list(METHODS)),
        ("model", "resnext", list(NETWORKS)),
        ("dataset", "imagenet", list(SOURCES)),
        ("partition", "fair", list(SCHEMES)),
        ("norm", "instance", ["auto", *NORMS]),
        ("scaler", "yes", ["auto", "on", "off"]),
        ("selection", "best", list(SELECTORS)),
        ("codec", "int8", list(CODECS)),
        ("codec-entropy", "huffman", ["fixed", "elias", "range"]),
        ("aggregation", "median", list(AGGREGATIONS)),
        ("slice-at", "edge", ["client", "server"]),
        ("tier-assignment", "random", ["fixed", "dynamic", "node", "measured"]),
        ("learning-rate-schedule", "linear", ["constant", "step", "cosine", "exponential"]),
        ("augment", "mixup", ["none"]),
        ("device", "tpu", ["auto", "cpu", "cuda"]),
    ],
)
def test_a_value_outside_a_closed_set(key: str, value: str, allowed: list[str]) -> None:
    error = refusal(**{key: value})
    assert (error.key, error.value) == (key, value)
    assert all(name in error.allowed for name in allowed)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num-clients", 0),
        ("num-clients", -3),
        ("num-clients", "20"),
        ("num-clients", 20.0),
        ("num-clients", True),
        ("num-server-rounds", 0),
        ("num-server-rounds", 1.5),
        ("fraction-train", 0.0),
        ("fraction-train", 1.1),
        ("fraction-train", float("nan")),
        ("fraction-evaluate", -0.1),
        ("quorum", 1.5),
        ("quorum", "half"),
        ("deadline", 0.0),
        ("deadline", float("nan")),
        ("min-nodes", -1),
        ("node-wait", -1.0),
        ("local-epochs", 0),
        ("batch-size", 0),
        ("batch-size", "big"),
        ("learning-rate", 0.0),
        ("learning-rate", -0.1),
        ("learning-rate", float("nan")),
        ("learning-rate", float("inf")),
        ("learning-rate-decay", 0.0),
        ("learning-rate-milestones", "3, x"),
        ("learning-rate-milestones", "0"),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("weight-decay", -1e-4),
        ("weight-decay", float("inf")),
        ("clip-norm", -1.0),
        ("mixed-precision", "yes"),
        ("mixed-precision", 1),
        ("threads", 0),
        ("seed", -1),
        ("seed", "one"),
        ("evaluate-every", 0),
        ("checkpoint-every", 0),
        ("dirichlet-alpha", 0.0),
        ("labels-per-client", 0),
        ("local-test-fraction", 1.0),
        ("image-size", 0),
        ("method", 3),
        ("widths", 16),
        ("widths", "16, x"),
        ("widths", "16, 0"),
        ("blocks", "2, 2"),
        ("fedrolex-step", 1.5),
        ("fedrolex-step", "1"),
        ("heterofl-label-rows", 1),
        ("fjord-alpha", "x"),
        ("fjord-alpha", float("nan")),
        ("codec-levels", 0),
        ("codec-levels", 7.0),
        ("codec-levels", 2**23),
        ("codec-block", 0),
        ("codec-share", 0.0),
        ("codec-share", 1.5),
        ("codec-share", float("nan")),
    ],
)
def test_a_value_of_the_wrong_type_or_range(key: str, value: Scalar) -> None:
    error = refusal(**{key: value})
    assert error.key == key
    assert error.value == value or error.value != error.value or key in ("widths", "blocks")
    assert error.allowed


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**400])
def test_a_whole_number_that_no_message_can_carry(value: int) -> None:
    for key in listed():
        if key.type in (int, float):
            assert refusal(**{key.name: value}).key == key.name


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("widths", "8, 99999999999999999"),
        ("blocks", "1, 1, 1, 99999"),
        ("heads", 2**25),
        ("local-epochs", 10**7),
        ("local-steps", 10**10),
        ("tier-steps", "8, 4, 99999999999"),
        ("batch-size", 10**10),
        ("threads", 10**4),
    ],
)
def test_more_than_a_device_would_do(key: str, value: Scalar) -> None:
    error = refusal(**{key: value})
    assert error.key == key
    assert any(word in error.allowed for word in ("up to", " to ", "at most"))


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("metod", "method"),
        ("num-client", "num-clients"),
        ("learning_rate", "learning-rate"),
        ("fedrolex-steps", "fedrolex-step"),
    ],
)
def test_an_unknown_key(key: str, meant: str) -> None:
    with pytest.raises(SettingError) as caught:
        resolve({**keys_of(), key: 1})
    assert caught.value.key == key
    assert f"did you mean {meant!r}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_like_no_other() -> None:
    error = refusal(xyzzy=1)
    assert "did you mean" not in str(error)
    assert "`flotilla keys`" in error.allowed


@pytest.mark.parametrize(
    ("tiers", "why"),
    [
        ("a:0", "above 0"),
        ("a:1, b:0", "above 0"),
        ("a:1.5", "at most 1"),
        ("a:1, b:-1/2", "above 0"),
        ("a:1, b:1/0", "list"),
        ("a:1, b:half", "list"),
        ("", "list"),
        ("a:1,,b:1/2", "list"),
        ("a:1, a:1/2", "once"),
        ("a:nan", "list"),
        ("a:inf", "list"),
    ],
)
def test_bad_tiers(tiers: str, why: str) -> None:
    error = refusal(tiers=tiers)
    assert (error.key, error.value) == ("tiers", tiers)
    assert why in error.allowed


@pytest.mark.parametrize("shares", ["1, 1", "1, 1, 1, 1", "0, 0, 0", "1, -1, 1", "a, b, c", "1/0, 1, 1", "nan, 1, 1"])
def test_proportions_that_do_not_fit(shares: str) -> None:
    error = refusal(tier_proportions=shares)
    assert (error.key, error.value) == ("tier-proportions", shares)


def test_more_clients_than_examples() -> None:
    error = refusal(num_clients=1438)
    assert (error.key, error.value) == ("num-clients", 1438)
    assert "1437" in error.allowed
    assert resolve(keys_of(num_clients=1437)).num_clients == 1437


@pytest.mark.parametrize(
    "keys",
    [
        {"method": "fedecover", "widths": "16, 3"},  # int(3/4) = 0
        {"method": "fedecover", "widths": "3, 16"},
        {"method": "fedecover", "model": "cnn", "widths": "4, 8, 8, 8", "tiers": "a:1, b:1/8"},
    ],
)
def test_a_width_that_leaves_a_layer_empty(keys: dict[str, Scalar]) -> None:
    error = refusal(**keys)
    assert error.key in ("tiers", "widths")
    assert "leaves nothing" in str(error)


def test_rounding_up_leaves_no_layer_empty() -> None:
    assert resolve(keys_of(method="heterofl", widths="1, 1")).network.widths == (1, 1)


@pytest.mark.parametrize("dataset", ["mnist", "fashion-mnist", "cifar10", "cifar100", "image-folder"])
def test_missing_data(dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setattr("socket.create_connection", offline)
    monkeypatch.setattr("socket.getaddrinfo", offline)
    error = refusal(dataset=dataset, data_root=str(tmp_path / "nothing"), model="cnn", widths="4, 8, 8, 8")
    assert error.key == "data-root"
    assert str(tmp_path / "nothing") in str(error)


def test_more_labels_than_classes() -> None:
    error = refusal(partition="labels", labels_per_client=11)
    assert error.key == "labels-per-client"
    assert "10" in error.allowed


def test_widths_that_do_not_fit_the_network() -> None:
    assert refusal(model="cnn-flat", widths="4, 4").key == "widths"
    assert refusal(model="resnet", widths="4, 8").key == "widths"


def test_whole_numbers_will_do_for_fractions() -> None:
    config = resolve(keys_of(learning_rate=1, fraction_train=1, fedecover_server_learning_rate=1))
    assert config.settings.schedule.learning_rate == 1.0
    assert type(config.flat["learning-rate"]) is float
    assert type(config.flat["fedecover-server-learning-rate"]) is float


def test_the_resolved_configuration_names_every_key() -> None:
    assert set(resolve(keys_of()).flat) == set(defaults())
    assert resolve(resolve(keys_of()).flat).flat == resolve(keys_of()).flat


def test_defaults_are_a_configuration() -> None:
    config = resolve({})
    assert config.flat == resolve(defaults()).flat == defaults()


def test_pyproject_lists_exactly_the_defaults() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = project["tool"]["flwr"]["app"]["config"]
    assert listed == defaults()
    assert {key: type(value) for key, value in listed.items()} == {
        key: type(value) for key, value in defaults().items()
    }


@pytest.mark.parametrize(
    ("key", "value", "where"),
    [
        ("fleet", "mixed", "simulated-devices"),
        ("fedrolex-label-rows", False, "heterofl-label-rows"),
        ("depthfl-exclusive-distillation-rounds", 9, "depthfl-distillation-rounds"),
        ("planted", "rotations:2", "DataSettings(synthetic_groups=…)"),
        ("oort-cutoff", 0.5, "Oort(cutoff=…)"),
        ("codec-small", 10, "CodecSettings(small=…)"),
        ("guard-clip-start", 2.0, "GuardOptions(guard_clip_start=…)"),
        ("cfl-sample", 100, "ClusterOptions(cfl_sample=…)"),
    ],
)
def test_a_key_that_there_was_once_says_where_it_went(key: str, value: Scalar, where: str) -> None:
    error = refusal(**{key: value})
    assert (error.key, error.value) == (key, value)
    assert where in error.allowed


def test_what_python_sets_is_checked_recorded_and_reaches_its_section() -> None:
    given = {"codec": "topk", "selection": "oort", **TINY}
    config = resolve(given, overrides={"codec-small": 10, "oort-cutoff": 1, "synthetic-groups": "rotations:2"})
    assert config.settings.codec == CodecSettings("topk", small=10)
    assert config.settings.selector == Oort(cutoff=1.0)
    assert config.data.synthetic_groups == "rotations:2"
    assert set(config.flat) - set(defaults()) == {"codec-small", "oort-cutoff", "synthetic-groups"}
    assert config.flat["oort-cutoff"] == 1.0
    for wrong in ({"codec-small": -1}, {"oort-cutoff": True}, {"synthetic-groups": "rotations:3"}, {"oort-cut": 1}):
        with pytest.raises(SettingError, match=next(iter(wrong))):
            resolve(given, overrides=wrong)


def test_every_advanced_setting_can_be_set_and_says_where() -> None:
    for one in advanced():
        config = resolve(TINY, overrides={one.name: one.default})
        assert config.flat[one.name] == one.default
        assert one.in_python.endswith("=…)")


# ---- numbers that nothing could come of ------------------------------------------------------------------------------


def test_more_nodes_than_there_are_cannot_be_needed() -> None:
    error = refusal(min_nodes=50)
    assert (error.key, error.value) == ("min-nodes", 50)
    assert "num-clients (6)" in error.allowed
    assert configured(min_nodes=6).settings.min_nodes == 6
    assert [configured(num_clients=clients).settings.min_nodes for clients in (1, 2, 6)] == [1, 2, 2]


@pytest.mark.parametrize("mean", ["median", "trimmed-mean"])
def test_a_mean_that_no_coordinate_could_have(mean: str) -> None:
    assert refusal(guard_mean=mean, num_clients=2).key == "guard-mean"
    error = refusal(guard_mean=mean, fraction_train=0.34, guard_faulty=2)  # 3 of 6
    assert "3 replies make a round" in error.allowed
    assert "= 5 of them" in error.allowed
    assert configured(guard_mean=mean, fraction_train=0.34).settings.trained_at_most == 3


def test_more_holders_than_train_in_a_round() -> None:
    error = refusal(min_cover=4, fraction_train=0.34)
    assert (error.key, error.value) == ("min-cover", 4)
    assert error.allowed.startswith("1 to 3")
    assert configured(min_cover=3, fraction_train=0.34).settings.guard.min_cover == 3
    assert refusal(min_cover=4, fraction_train=0.34, over_selection=2.0).key == "min-cover"  # 3 are waited for


def test_a_run_folder_in_use(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    try:
        with pytest.raises(SettingError, match=r"run-dir = .*run.*uses"):
            run_of(tmp_path / "run")
    finally:
        run.folder.close()


def test_a_run_folder_that_holds_a_run(tmp_path: Path) -> None:
    run_of(tmp_path / "run").folder.close()
    with pytest.raises(SettingError, match=r"run-dir = .*new folder"):
        run_of(tmp_path / "run")


def test_a_run_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SettingError, match="run-dir = "):
        run_of(tmp_path / "file")


def test_bad_input_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(SettingError):
        run_of(tmp_path / "run", method="nothing")
    assert not (tmp_path / "run").exists()


def test_nothing_is_started_when_data_are_missing(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="data-root"):
        run_of(tmp_path / "run", dataset="image-folder", data_root=str(tmp_path / "nothing"))
    assert not (tmp_path / "run").exists()


def test_which_rounds_are_scored_and_saved() -> None:
    """The last one always."""
    config = resolve({"num-server-rounds": 5, "evaluate-every": 2, "checkpoint-every": 3})
    assert [number for number in range(1, 6) if config.is_scored(number)] == [2, 4, 5]
    assert [number for number in range(1, 6) if config.is_saved(number)] == [3, 5]


class Fedprox(HeteroFL):
    """Whose option would be the key of the built-in method of that name."""

    OPTIONS: ClassVar[dict[str, Setting]] = {**HeteroFL.OPTIONS, "mu": Setting(0.5, "μ")}


class Local(HeteroFL):
    """Whose option would be a setting of the run."""

    OPTIONS: ClassVar[dict[str, Setting]] = {**HeteroFL.OPTIONS, "epochs": Setting(7, "passes")}


@pytest.mark.parametrize(("name", "key"), [("Fedprox", "fedprox-mu"), ("Local", "local-epochs")])
def test_a_plug_in_has_no_key_of_flotillas(name: str, key: str) -> None:
    """It got that key's value, default and range in place of its own."""
    with pytest.raises(SettingError, match=f"^method = .*{key}' is a key of Flotilla's"):
        configured(method=f"{__name__}:{name}")
