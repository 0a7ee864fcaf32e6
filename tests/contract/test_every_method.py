"""What every method must do; a method that stands in METHODS is covered, without a line of its own here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message

from client_app.app import app
from flotilla.local.grid import Faults, LocalGrid, contexts
from models.errors import SettingError
from models.networks.build import build_part, initial_state, submodel
from models.norms.layers import CHANNEL_NORMS
from models.randomness import torch_generator
from models.registry import option_keys as own_keys
from protocol import Scalar
from server_app.config import keys
from server_app.config.catalogue import foreign, option_keys
from server_app.folder import checkpoint
from strategies import METHODS
from strategies.flower_adapter import NothingLearnt
from tests.plugins.registered import EVERY_METHOD
from tests.support import OF_RANKS, Outcome, Player, configured, failed, half_of, trains, without
from tests.support import play as play_in

pytestmark = pytest.mark.parametrize("method", EVERY_METHOD)

# A share of the nodes a round, so that the order in which they are folded differs from round to round.
RESUMED: dict[str, Scalar] = {"fraction_train": 0.7, "num_server_rounds": 5}


def initial(method: str, **keys: Scalar) -> dict[str, torch.Tensor]:
    config = configured(method=method, **keys)
    return initial_state(config.network, torch_generator(1, 0, "server", "initial state"))


def finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(finite(item) for item in value.values())
    if isinstance(value, list):
        return all(finite(item) for item in value)
    return value is not None and (isinstance(value, str) or isfinite(value))


def same(a: Outcome, b: Outcome) -> bool:
    """Bit for bit, and the same numbers in the metrics."""
    timeless = [{k: v for k, v in row.items() if "seconds" not in k and "bytes" not in k} for row in a.rows]
    other = [{k: v for k, v in row.items() if "seconds" not in k and "bytes" not in k} for row in b.rows]
    return a.hash == b.hash and timeless == other


def test_every_tier_has_finite_metrics(play: Player, method: str) -> None:
    out = play.once(method=method)
    assert out.summary["status"] == "finished"
    assert finite(out.rows[-1])
    assert set(out.rows[-1]["tiers"]) == {"a", "b", "c"}
    assert all(0 <= tier["accuracy"] <= 1 for tier in out.rows[-1]["tiers"].values())
    assert [row["rejected"] for row in out.rows] == [[], []]


def test_training_changes_the_state(play: Player, method: str) -> None:
    before, after = initial(method), play.once(method=method).state
    assert before.keys() == after.keys()
    assert sum(not torch.equal(before[name], after[name]) for name in before) > len(before) / 2
    assert all(tensor.isfinite().all() for tensor in after.values())


def test_summary_has_the_published_shape(play: Player, method: str) -> None:
    summary = json.loads((play.once(method=method).path / "summary.json").read_text())
    assert set(summary) == {"status", "rounds", "last", "best", "best_of_tier", "model"}
    assert (summary["status"], summary["rounds"]) == ("finished", 2)
    assert summary["model"].keys() == {"round", "sha256", "tiers_sha256"}
    assert (summary["model"]["round"], summary["model"]["sha256"]) == (2, play.once(method=method).hash)
    assert set(summary["best_of_tier"]) >= {"a", "b", "c"}
    for result in (summary["last"], summary["best"]):
        assert list(result) == ["round", "loss", "accuracy", "tiers"]
        assert list(result["tiers"]) == ["a", "b", "c"]
        for tier in result["tiers"].values():
            assert list(tier)[:5] == ["accuracy", "parameters", "macs", "bytes_down", "bytes_up"]
            assert set(tier) - {"ensemble"} == set(list(tier)[:5])
            assert tier["parameters"] > 0
            assert tier["macs"] > 0


def test_same_seed_same_bits_other_seed_other_bits(play: Player, method: str) -> None:
    first = play.once(method=method)
    assert same(first, play(method=method))
    assert first.hash != play(method=method, seed=2).hash


def test_slicing_on_the_server_changes_nothing(play: Player, method: str) -> None:
    client, server = play.once(method=method), play(method=method, slice_at="server")
    assert same(client, server)
    assert server.rows[0]["bytes_down"] <= client.rows[0]["bytes_down"]


def test_order_of_arrival_changes_nothing(play: Player, method: str) -> None:
    reference = play.once(method=method)
    everybody = len(reference.rows[0]["selected"])
    assert same(reference, play(backwards(everybody), method=method))
    assert same(reference, play(backwards(2), method=method))


def backwards(held: int) -> Faults:
    """Training replies arrive in bunches, the last one first."""
    waiting: list[Message] = []

    def faults(request: Message, reply: Message) -> list[Message]:
        if not trains(request):
            return [reply]
        waiting.append(reply)
        if len(waiting) < held:
            return []
        bunch = waiting[::-1]
        waiting.clear()
        return bunch

    return faults


@pytest.mark.usefixtures("own_time")
def test_a_lost_reply_is_no_reply(play: Player, method: str) -> None:
    """Lost on the way, or an error that says so: the same run; and another one than with that client."""

    def lose(request: Message, reply: Message) -> list[Message]:
        return [] if trains(request, node, [1]) else [reply]

    node = play.once(method=method).rows[0]["selected"][1]
    lost, told = play(lose, method=method, deadline=0.5), play(without(node, [1]), method=method)
    assert lost.hash == told.hash != play.once(method=method).hash
    for out, word in ((lost, "late"), (told, "out of battery")):
        ((rejection,), (*later,)) = (row["rejected"] for row in out.rows)
        assert rejection["node"] == node
        assert word in rejection["reason"]
        assert not later
        assert out.rows[0]["accepted"] == out.rows[1]["accepted"] - 1


def test_without_any_reply_the_model_stays_and_the_run_fails(tmp_path: Path, method: str) -> None:
    def faults(request: Message, reply: Message) -> list[Message]:
        return [failed(request) if trains(request) else reply]

    with pytest.raises(NothingLearnt):
        play_in(tmp_path, faults, method=method)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert "NothingLearnt" in summary["error"]
    out = Outcome(tmp_path, summary, [])
    assert [(row["abandoned"], row["accepted"]) for row in out.rows] == [(True, 0), (True, 0)]
    assert {r["node"] for r in out.rejected} == set(out.rows[0]["selected"])
    saved = checkpoint.newest(tmp_path / "checkpoints")
    assert saved is not None
    assert all(torch.equal(saved.tensors[f"clusters/state/{name}"], tensor) for name, tensor in initial(method).items())


def test_an_abandoned_round_leaves_the_state_alone(play: Player, method: str) -> None:
    def faults(request: Message, reply: Message) -> list[Message]:
        return [failed(request) if trains(request, rounds=[2]) else reply]

    out = play(faults, method=method)
    assert [row["abandoned"] for row in out.rows] == [False, True]
    assert out.summary["status"] == "finished"
    assert out.hash == play.once(method=method, num_server_rounds=1).hash


@pytest.mark.parametrize(("assignment", "stop"), [("fixed", 3), pytest.param("dynamic", 1, marks=pytest.mark.slow)])
def test_a_resumed_run_is_the_uninterrupted_one(play: Player, method: str, assignment: str, stop: int) -> None:
    keys: dict[str, Any] = {"method": method, "tier_assignment": assignment, **RESUMED}
    half = half_of(play, stop, **keys)
    resumed = play(**keys, resume=str(half.path))
    assert [row["round"] for row in resumed.rows] == list(range(1, 6))
    assert resumed.hash == play.once(**keys).hash


def test_what_every_tier_keeps_can_be_cut_and_run(play: Player, method: str) -> None:
    config, state = configured(method=method), play.once(method=method).state
    strategy = config.strategy()
    for tier in config.settings.tiers:
        for round_number in (1, 2, 37):
            plan = strategy.kept_plan(strategy.context(round_number), tier)
            network = build_part(config.network, plan)
            network.load_state_dict(submodel(config.network, plan).gather(state))
            network.train()
            assert network(torch.zeros(2, *config.network.input_shape)).shape == (2, 10)


def test_its_options_are_run_config_keys(method: str) -> None:
    known = {key.name: key for key in (*keys(), *foreign({"method": method}))}
    read = {key.name for key in known.values() if method in key.read_by.removeprefix("method = ").split(", ")}
    told = option_keys().get(method) or {own: key for key, (own, _) in own_keys(method, METHODS[method]).items()}
    assert set(told.values()) == read
    assert all(known[key].default == METHODS[method].OPTIONS[own].default for own, key in told.items())
    options = {key.replace("-", "_"): known[key].default for key in read}
    assert configured(method=method, **options).options == {
        name: option.default for name, option in METHODS[method].OPTIONS.items()
    }


@pytest.mark.parametrize("norm", CHANNEL_NORMS)
def test_every_norm(play: Player, method: str, norm: str) -> None:
    if norm == "batch-per-width" and not METHODS[method].PER_WIDTH:
        with pytest.raises(SettingError, match="norm = 'batch-per-width'"):
            configured(method=method, norm=norm)
    elif norm != METHODS[method].PREFERENCES.norm:  # that one is what "auto" means, and all other tests run
        assert finite(play(method=method, norm=norm, num_server_rounds=1, num_clients=3).rows[-1])


@pytest.mark.parametrize(
    "network", [{"model": "cnn", "widths": "4, 8, 8, 8"}, {"model": "resnet", "widths": "4, 8, 8, 8"}]
)
def test_other_networks(play: Player, method: str, network: dict[str, Any]) -> None:
    if method in OF_RANKS:
        convolutions = network | {"adapter_targets": "linear, convolution"}
        transformer = {"model": "vit", "widths": "8, 8", "blocks": "2", "heads": 2}
        network = convolutions if network["model"] == "cnn" else transformer
    out = play(method=method, num_server_rounds=1, num_clients=3, **network)
    assert finite(out.rows[-1])
    assert out.rows[-1]["accepted"] >= 1


def test_a_codec_of_half_the_bytes(play: Player, method: str) -> None:
    full, half = play.once(method=method), play(method=method, codec="float16")
    headers = 64 * full.rows[0]["accepted"]  # they do not shrink
    assert half.rows[0]["bytes_up"] < 0.65 * full.rows[0]["bytes_up"] + headers
    assert finite(half.rows[-1])


def test_local_evaluation(play: Player, method: str) -> None:
    row = play(method=method, fraction_evaluate=0.5, num_server_rounds=1).rows[0]
    assert set(row["local"]) == {"loss", "accuracy", "accuracy_own_labels"}
    assert finite(row["local"])


def test_messages_do_not_name_the_method(method: str) -> None:
    """The client is told which part and which objective, never whom it serves."""
    seen: list[str] = []

    def look(request: Message, reply: Message) -> list[Message]:
        seen.append(str({name: dict(record) for name, record in request.content.config_records.items()}))
        return [reply]

    config = configured(method=method)
    strategy = config.strategy()
    grid = LocalGrid(app, contexts(config.flat, 6), faults=look)
    strategy.run_round(grid, 1)
    assert seen
    assert not any(name in text for name in names_of(method) for text in seen)


def names_of(method: str) -> Iterable[str]:
    return (f'"{method}"', f"'{method}'", METHODS[method].__name__)
