"""Runs of a network that is frozen in part: what crosses the wire, what is kept, and who is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message
from safetensors.torch import load_file, save_file

from client_app.app import app
from data.sets import evaluated_on
from flotilla import load
from flotilla.local.grid import contexts
from flotilla.serving.formats.runtime import CannotExport
from flotilla.serving.peft_folder import export_peft
from models import base_store
from models.errors import SettingError
from models.networks.bases import first_state
from models.networks.build import layout, without_adapter
from protocol import HELLO
from tests.support import Outcome, configured, play

KEYS: dict[str, Any] = {
    "adapter": "lora:4",
    "tiers": "a:4, b:2, c:1",
    "num_clients": 4,
    "num_server_rounds": 2,
    "evaluate_every": 2,
    "norm": "none",
}


class Wire:
    """Counts the numbers of every array that goes through."""

    def __init__(self) -> None:
        self.down, self.up = set[int](), set[int]()

    def __call__(self, message: Message, context: Context) -> Message:
        reply = app(message, context)
        for content, found in ((message.content, self.down), (reply.content, self.up)):
            for record in content.values():
                if isinstance(record, ArrayRecord):
                    found.update(len(array.data) for array in record.values())
        return reply


@pytest.fixture(scope="module")
def wire() -> Wire:
    return Wire()


@pytest.fixture(scope="module")
def run(wire: Wire, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return play(tmp_path_factory.mktemp("adapter") / "run", client=wire, **KEYS)


def test_frozen_tensors_are_in_no_message(run: Outcome, wire: Wire) -> None:
    """The bytes of every array are those of the trained tensors, with the few of a frame around them."""
    network = configured(**KEYS).network
    trained = 4 * layout(network).parameters
    frozen = 4 * sum(tensor.numel() for tensor in load_file(run.path / "base.safetensors").values())
    assert frozen > 2 * trained
    assert wire.down
    assert max(wire.down) < trained + 256
    assert wire.up
    assert max(wire.up) < trained + 256
    assert set(run.state) == set(layout(network).tensors)
    assert any(f"base: {frozen:,} bytes" in line and "never sent" in line for line in run.lines)


def test_only_what_is_trained_moves(run: Outcome) -> None:
    network = configured(**KEYS).network
    first, base = first_state(network, seed=1), load_file(run.path / "base.safetensors")
    assert all(not torch.equal(run.state[name], first[name]) for name in first)
    assert all(
        torch.equal(base[name], tensor)
        for name, tensor in first_state(without_adapter(network), 1).items()
        if name in base
    )


def test_resumed_it_is_the_same_to_the_last_bit(run: Outcome, tmp_path: Path) -> None:
    play(tmp_path / "run", **KEYS | {"num_server_rounds": 1})
    base_store._known.clear()  # another process
    assert play(tmp_path / "run", resume=str(tmp_path / "run"), **KEYS).hash == run.hash


def test_what_is_loaded_is_an_ordinary_network(run: Outcome) -> None:
    base_store._known.clear()
    for tier in ("global", "c"):
        model = load(run.path, tier)
        assert model.card.network.adapter is None
        assert model.card.accuracy is not None
        assert set(model.network.state_dict()) == set(layout(without_adapter(configured(**KEYS).network)).tensors)


LOWER = KEYS | {"tiers": "a:4, b:2 int8, c:1 int8", "evaluate_every": 1}


def test_tiers_whose_base_is_int8_are_scored_and_loaded_as_they_compute(run: Outcome, tmp_path: Path) -> None:
    out = play(tmp_path / "run", **LOWER)
    assert out.rejected == []
    assert out.hash != run.hash
    (fact,) = [line for line in out.lines if "of which tiers hold" in line]
    base = sum(4 * tensor.numel() for tensor in load_file(out.path / "base.safetensors").values())
    said = re.findall(r"(\w) ([\d,]+)(?=,)", fact.partition("hold:")[2])
    held = {name: int(size.replace(",", "")) for name, size in said}
    assert held.keys() == {"b", "c"}
    assert all(size < base / 3 for size in held.values())
    for tier in ("global", "b", "c"):
        model = load(out.path, tier)
        test = evaluated_on(configured(**LOWER).data, model.card.inputs)
        predicted = model(test.inputs).argmax(1)
        assert float((predicted == test.labels).double().mean()) == pytest.approx(model.card.accuracy)


CUT = KEYS | {
    "tiers": "a:4, b:2 base=1/2, c:1 base=1/4 int8",
    "evaluate_every": 1,
    "model": "vit",
    "widths": "8, 12",
    "blocks": "2",
    "heads": 2,
    "norm": "auto",
}


def test_tiers_with_a_part_of_the_base_are_what_they_say(tmp_path: Path) -> None:
    """Resumed to the last bit, scored as they are loaded; what only the largest holds moves as it says alone."""
    out = play(tmp_path / "whole", **CUT)
    assert out.rejected == []
    play(tmp_path / "run", **CUT | {"num_server_rounds": 1})
    base_store._known.clear()
    assert play(tmp_path / "run", resume=str(tmp_path / "run"), **CUT).hash == out.hash
    (fact,) = [line for line in out.lines if "of which tiers hold" in line]
    assert re.search(r"hold: b [\d,]+, c [\d,]+, \w{12}, never sent", fact)
    sizes = []
    for tier in ("global", "a", "b", "c"):
        model = load(out.path, tier)
        test = evaluated_on(configured(**CUT).data, model.card.inputs)
        predicted = model(test.inputs).argmax(1)
        assert float((predicted == test.labels).double().mean()) == pytest.approx(model.card.accuracy)
        sizes.append(sum(parameter.numel() for parameter in model.parameters()))
    assert sizes[0] == sizes[1] > 2 * sizes[2] > 2 * sizes[3]
    with pytest.raises(CannotExport, match="part of the base"):
        export_peft(out.path, "b", tmp_path)
    assert export_peft(out.path, "a", tmp_path)


def test_on_an_int8_base_a_run_is_resumed_to_the_last_bit(tmp_path: Path) -> None:
    """On another machine, whose devices find the base in a file and hold it in no other form."""
    save_file(first_state(without_adapter(configured(**KEYS).network), 7), tmp_path / "start.safetensors")
    keys = KEYS | {"start": str(tmp_path / "start.safetensors"), "base_precision": "int8"}
    whole_run = play(tmp_path / "whole", **keys)
    play(tmp_path / "run", **keys | {"num_server_rounds": 1})
    base_store._known.clear()
    assert play(tmp_path / "run", resume=str(tmp_path / "run"), **keys).hash == whole_run.hash
    assert play(tmp_path / "plain", **keys | {"base_precision": "float32"}).hash != whole_run.hash
    with pytest.raises(SettingError, match="base-precision"):
        play(tmp_path / "run", resume=str(tmp_path / "run"), **keys | {"base_precision": "bfloat16"})


def test_what_peft_loads_is_a_start(run: Outcome, tmp_path: Path) -> None:
    """Every tier's folder, at the rank that the tier has; without learning, a run leaves what it started from."""
    written = export_peft(run.path, "all", tmp_path)
    assert [(one.tier, one.rank) for one in written] == [("a", 4), ("b", 2), ("c", 1)]
    assert json.loads((written[1].folder / "adapter_config.json").read_text())["lora_alpha"] == 8.0
    still = KEYS | {"learning_rate": 1e-30, "weight_decay": 0.0, "num_server_rounds": 1}
    for place in (written[0].folder, run.path):
        assert play(tmp_path / f"from-{place.name}", start=str(place), **still).hash == run.hash
    with pytest.raises(SettingError, match="lora_A"):  # another rank
        configured(start=str(written[1].folder), **KEYS)


def test_a_base_of_ones_own_is_read_and_another_is_refused(run: Outcome, tmp_path: Path) -> None:
    """Nodes of which one has the run's base as a file and one has another; the run goes on with those that have it."""
    network = configured(**KEYS).network
    whole = first_state(without_adapter(network), 7)
    save_file(whole, tmp_path / "start.safetensors")
    save_file({name: tensor + 1 for name, tensor in whole.items()}, tmp_path / "other.safetensors")
    keys = KEYS | {"start": str(tmp_path / "start.safetensors"), "num_server_rounds": 1}

    def client(message: Message, context: Context) -> Message:
        if message.metadata.message_type.endswith(HELLO.removeprefix("query.")):
            base_store._known.clear()  # every node is a machine of its own
        return app(message, context)

    config = configured(**keys)
    nodes = contexts(config.flat, config.num_clients)
    next(iter(nodes.values())).node_config["base"] = str(tmp_path / "other.safetensors")
    out = play(tmp_path / "run", client=client, nodes=nodes, **keys)
    (rejection,) = [one for one in out.rejected if "base" in one["reason"]]
    assert not network.base
    assert "the run's is" in rejection["reason"]
    assert all(torch.equal(tensor, whole[name]) for name, tensor in load_file(out.path / "base.safetensors").items())


def test_one_rank_and_one_node_is_plain_training(tmp_path: Path) -> None:
    """With one client that has everything HeteroFL's average is its own state, as FedAvg's is."""
    keys = KEYS | {"tiers": "a:4", "num_clients": 1, "num_server_rounds": 1}
    states = [play(tmp_path / method, method=method, **keys).state for method in ("heterofl", "fedavg")]
    assert all(torch.allclose(states[0][name], states[1][name], atol=1e-7) for name in states[0])


VIT: dict[str, Any] = {
    "model": "vit",
    "widths": "8, 12",
    "blocks": "2",
    "heads": 2,
    "norm": "auto",
    "adapter_targets": "attention",
}
EXITS = {  # with convolutions of their own, which have pairs too
    "model": "resnet",
    "norm": "auto",
    "widths": "4, 5, 6, 7",
    "blocks": "1, 1, 1, 1",
    "adapter_targets": "linear, convolution",
    "tiers": "a:4@4, b:2@2, c:1@1",
}
WITH: list[dict[str, Any]] = [
    *({"codec": name} for name in ("float16", "qsgd", "topk", "ef21", "eden")),
    {"codec_down": "qsgd"},
    {"slice_at": "server"},
    *({"selection": name, "fraction_train": 0.5} for name in ("oort", "divfl", "utility")),
    *({"clustering": name} for name in ("ifca", "cfl")),
    {"secure_aggregation": True, "method": "fedavg", "min_cover": 3},
    {"dynamic_alpha": "0.1"},
    {"guard_mean": "median"},
    {"aggregation": "q-fedavg"},
    {"fraction_evaluate": 1.0},
    *({"method": name} for name in ("fedavg", "fedrolex", "dropout", "fedecover", "fjord", "fiarse")),
    *({"method": name, "tiers": "a:4@2, b:2@1"} for name in ("depthfl", "scalefl")),
    *(EXITS | {"method": name} for name in ("depthfl", "scalefl")),
    {"adapter": "head", "method": "fedavg", "tiers": "a:1"},
    {"method": "fjord", "tiers": "a:4 int8, b:2 int8"},
    {**VIT, "method": "flora", "tiers": "a:4 bfloat16, b:2"},
    {"tiers": "a:4, b:4 int8", "selection": "oort", "fraction_train": 0.5},
    VIT,
    *(
        {"method": name, "tiers": "a:4, b:2 base=1/2, c:1 base=1/4"}
        for name in (
            "fedrolex",
            "dropout",
            "fedecover",
            "fjord",
            "rbla",
            "prelort",
            "zero-padding",
            "fslora",
            "ffa-lora",
        )
    ),
    {"method": "heterofl", "tiers": "a:4, b:2 base=1/2", "codec": "ef21", "slice_at": "server"},
    {"method": "scalefl", "tiers": "a:4@2, b:2@1 base=1/2"},
    VIT | {"tiers": "a:4, b:4 mlp=1/2, c:2 mlp=1/4 heads=1/2"},
]


@pytest.mark.slow
@pytest.mark.parametrize("keys", WITH, ids=lambda keys: " ".join(map(str, keys.values())))
def test_with_everything_else_once(keys: dict[str, Any], tmp_path: Path) -> None:
    out = play(tmp_path / "run", **KEYS | keys)
    assert out.rejected == []
    assert len(out.rows) == 2
    assert all(tensor.isfinite().all() for tensor in out.state.values())
    assert not set(out.state) & set(load_file(out.path / "base.safetensors"))
    assert load(out.path).card.accuracy is not None


def test_refusals() -> None:
    for keys, key in (
        ({"tiers": "a:1, b:1/2"}, "tiers"),
        ({"adapter": "lora"}, "adapter"),
        ({"adapter_targets": "nothing"}, "adapter-targets"),
        ({"method": "nefl", "model": "vit", "widths": "", "norm": "auto"}, "adapter"),
        ({"base_precision": "int4"}, "base-precision"),
        ({"base_precision": "int8", "adapter": "", "tiers": "a:1"}, "base-precision"),
        ({"model": "cnn", "widths": "", "adapter": "head", "tiers": "a:1, b:1 int8"}, "base-precision"),
        ({"tiers": "a:4, b:2 base=1/2", "method": "flexlora"}, "tiers"),
        ({"tiers": "a:4, b:2 mlp=1/2"}, "tiers"),
        ({"start": "nowhere.safetensors"}, "start"),
        ({"adapter": "", "tiers": "a:4, b:2"}, "tiers"),
    ):
        with pytest.raises(SettingError) as caught:
            configured(**KEYS | keys)
        assert caught.value.key == key
