"""What every codec must do through a whole run; its arithmetic is tested in tests/protocol."""

from __future__ import annotations

import shutil
from dataclasses import replace
from math import isfinite
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message

from client_app.app import app
from flotilla.local.grid import Faults
from models.errors import SettingError
from models.networks.spec import NetworkSpec
from protocol import DIFFERENCE, HELLO, REQUEST
from protocol.codecs import CODECS, CodecSettings
from server_app.folder import checkpoint
from strategies import FedAvg, Settings
from strategies.nodes.manager import NotEnoughNodes
from tests.support import Outcome, Player, address_of, trains, without

VICTIM = 2
# FedRolex moves its window every round, so what is remembered belongs to other coordinates each time.
TEN: dict[str, Any] = {"method": "fedrolex", "codec_small": 0, "codec_share": 0.1, "codec_block": 64}
EVERY: dict[str, dict[str, Any]] = {
    "float16": {"codec": "float16"},
    "bfloat16": {"codec": "bfloat16"},
    "qsgd": {"codec": "qsgd"},
    "qsgd-elias": {"codec": "qsgd", "codec_entropy": "elias", "codec_scale": "tensor", "codec_norm": "max"},
    "qsgd-range": {"codec": "qsgd", "codec_entropy": "range", "codec_scale": "whole", "codec_levels": 15},
    "qsgd-small": {"codec": "qsgd", "codec_small": 200},
    "topk": {"codec": "topk"},
    "ef21": {"codec": "ef21"},
    "eden": {"codec": "eden"},
}
each = pytest.mark.parametrize("codec", EVERY)
remembering = pytest.mark.parametrize("codec", ["topk", "ef21"])


def keys(codec: str, **more: Any) -> dict[str, Any]:
    return TEN | EVERY[codec] | more


def knowing(codecs: list[str], *nodes: int) -> Faults:
    """These nodes say that they know these codecs only."""
    addresses = set(map(address_of, nodes))

    def faults(request: Message, reply: Message) -> list[Message]:
        if request.metadata.message_type == HELLO and request.metadata.dst_node_id in addresses:
            config = reply.content["config"]
            assert isinstance(config, ConfigRecord)
            config["codecs"] = list(codecs)
        return [reply]

    return faults


@pytest.mark.parametrize("key", ["codec", "codec-down"])
def test_a_codec_that_nobody_speaks_ends_the_run_with_one_line(play: Player, key: str) -> None:
    faults, wanted = knowing(["float32", "topk"], *range(6)), {key.replace("-", "_"): "qsgd"}
    line = (
        rf"^none of 6 nodes can take part; one of them: {key} = 'qsgd': allowed is what node \d knows: float32, topk$"
    )
    with pytest.raises(NotEnoughNodes, match=line):
        play(faults, **wanted)
    assert not play(faults, **{key.replace("-", "_"): "topk"}).rejected


def test_who_does_not_speak_the_codec_is_named_and_left_out(play: Player) -> None:
    out = play(knowing(["float32"], VICTIM), codec="qsgd")
    assert [sorted(row["selected"]) for row in out.rows] == [[0, 1, 3, 4, 5]] * 2
    assert {(r["node"], r["reason"]) for r in out.rejected} == {
        (VICTIM, "codec = 'qsgd': allowed is what node 2 knows: float32")
    }
    assert out.summary["status"] == "finished"


def test_more_than_the_server_can_keep_is_refused_at_the_door() -> None:
    """EF21 keeps a vector of every node, in every checkpoint too."""
    network = NetworkSpec("mlp", (1, 28, 28), 10, widths=(1024, 1024))
    settings = Settings(nodes=500, codec=CodecSettings("ef21"))
    with pytest.raises(SettingError, match=r"^codec = 'ef21': allowed is one that keeps nothing.* 500 nodes.* 2 GiB$"):
        FedAvg(network, settings)
    FedAvg(network, replace(settings, nodes=100))
    FedAvg(network, replace(settings, codec=CodecSettings("topk")))


def test_every_codec_is_here() -> None:
    assert {case["codec"] for case in EVERY.values()} == set(CODECS) - {"float32"}


@each
def test_two_rounds(play: Player, codec: str) -> None:
    out, plain = play.once(**keys(codec)), play.once(**TEN)
    assert not out.rejected
    assert all(tensor.isfinite().all() for tensor in out.state.values())
    assert out.hash != plain.hash
    for row, other in zip(out.rows, plain.rows, strict=True):
        assert isfinite(row["train_loss"])
        assert row["entropy_bytes_up"] <= row["bytes_up"] < 0.7 * other["bytes_up"]
        assert row["accepted"] == other["accepted"]


def test_without_a_codec_every_byte_counts(play: Player) -> None:
    for row in play.once(**TEN).rows:
        assert row["bytes_up"] == row["entropy_bytes_up"] + 128 * row["accepted"]  # the header of a .npy array


@pytest.mark.parametrize("codec", ["qsgd", "topk", "ef21", "eden"])
def test_slicing_on_the_server_changes_nothing(play: Player, codec: str) -> None:
    assert play(**keys(codec, slice_at="server")).hash == play.once(**keys(codec)).hash


@pytest.mark.parametrize(("codec", "assignment"), [*((codec, "fixed") for codec in EVERY), ("ef21", "dynamic")])
def test_a_resumed_run_is_the_uninterrupted_one(play: Player, codec: str, assignment: str) -> None:
    long = keys(codec, tier_assignment=assignment, fraction_train=0.7, num_server_rounds=4)
    half = play(**long | {"num_server_rounds": 2})
    assert play(**long, resume=str(half.path)).hash == play.once(**long).hash


@remembering
def test_devices_that_had_gone_on_before_the_server_was_stopped(play: Player, codec: str) -> None:
    """The newest checkpoint is lost; devices remember a round that the server does not."""
    long = keys(codec, fraction_train=0.7, num_server_rounds=5)
    stopped = play(**long | {"num_server_rounds": 4})
    (stopped.path / "checkpoints" / "round-000004.json").unlink()
    assert play(**long, resume=str(stopped.path)).hash == play.once(**long).hash


@remembering
def test_a_device_that_lost_its_memory_begins_anew(play: Player, codec: str) -> None:
    long = keys(codec, num_server_rounds=4)
    half = play(**long | {"num_server_rounds": 2})
    shutil.rmtree(half.path / "clients" / str(VICTIM))
    out = play(**long, resume=str(half.path))
    assert not out.rejected
    assert out.hash != play.once(**long).hash
    assert all(tensor.isfinite().all() for tensor in out.state.values())


@pytest.mark.parametrize("codec", ["qsgd", "topk", "ef21", "eden"])
def test_a_reply_that_was_lost_was_never_given(play: Player, codec: str) -> None:
    """The device wrote to its memory, its reply did not count: as if it had not been asked."""

    def client(message: Message, context: Context) -> Message:
        if trains(message, VICTIM, [1, 2]):
            raise RuntimeError("asleep")
        return app(message, context)

    long = keys(codec, num_server_rounds=4)
    assert play(without(VICTIM, [1, 2]), **long).hash == play(client=client, **long).hash


@remembering
def test_an_abandoned_round_leaves_no_trace(play: Player, codec: str) -> None:
    """Devices and server go on from what they remembered before it."""

    def faults(request: Message, reply: Message) -> list[Message]:
        return without(0)(request, reply) if trains(request, rounds=[2]) else [reply]

    def client(message: Message, context: Context) -> Message:
        if trains(message, rounds=[2]):
            raise RuntimeError("asleep")
        return app(message, context)

    long = keys(codec, num_server_rounds=4, quorum=1.0)
    out = play(faults, **long)
    assert [row["abandoned"] for row in out.rows] == [False, True, False, False]
    assert out.hash == play(client=client, **long).hash


def flipped(message: Message) -> None:
    old = message.content.array_records["arrays"][DIFFERENCE]
    data = bytearray(old.data)
    data[-3] ^= 4
    message.content["arrays"] = ArrayRecord({DIFFERENCE: Array(old.dtype, old.shape, old.stype, bytes(data))})


@pytest.mark.parametrize("codec", ["bfloat16", "qsgd", "qsgd-range", "ef21", "eden"])
def test_a_mutated_reply_is_no_reply_and_named(play: Player, codec: str) -> None:
    def faults(request: Message, reply: Message) -> list[Message]:
        if trains(request, VICTIM, [1]):
            flipped(reply)
        return [reply]

    out = play(faults, **keys(codec))
    assert out.hash == play(without(VICTIM, [1]), **keys(codec)).hash
    assert [(r["node"], r["reason"]) for r in out.rejected] == [(VICTIM, "the frame's checksum is wrong")]


def test_a_client_that_does_not_speak_the_codec_says_so(play: Player) -> None:
    def client(message: Message, context: Context) -> Message:
        if trains(message, VICTIM):
            config = message.content.config_records[REQUEST]
            message.content[REQUEST] = ConfigRecord(dict(config) | {"codec": "zstd"})
        return app(message, context)

    out = play(client=client, **TEN)
    assert {r["node"] for r in out.rejected} == {VICTIM}
    assert all("codec 'zstd': this client knows float32, float16" in r["reason"] for r in out.rejected)


@remembering
def test_everything_sent_is_no_compression(play: Player, codec: str) -> None:
    """Top-k of all coordinates, and EF21 with the identity, are the plain run, bit for bit."""
    whole = TEN | {"codec_share": 1.0, "num_server_rounds": 3}
    assert play(**whole | EVERY[codec]).hash == play.once(**whole).hash


def test_many_levels_are_fedavg(play: Player) -> None:
    """FedPAQ with 2^20 levels is FedAvg within tolerance; with one level it is not."""
    common: dict[str, Any] = {"method": "fedavg", "codec_small": 0, "codec_scale": "whole"}
    plain = play.once(method="fedavg")
    fine, coarse = (play(**common, codec="qsgd", codec_levels=levels) for levels in (2**20, 1))
    assert furthest(fine, plain) < 1e-4 < furthest(coarse, plain)


def furthest(a: Outcome, b: Outcome) -> float:
    return max(float((a.state[name] - tensor).abs().max()) for name, tensor in b.state.items())


def test_what_is_remembered_is_in_the_checkpoint_and_the_device(play: Player) -> None:
    for codec, kept in (("qsgd", 0), ("topk", 0), ("ef21", 6), ("eden", 0)):
        out = play.once(**keys(codec))
        saved = checkpoint.newest(out.path / "checkpoints")
        assert saved is not None
        vectors = [tensor for name, tensor in saved.tensors.items() if name.startswith("uplink/")]
        assert len(vectors) == kept
        assert all(len(vector) == sum(tensor.numel() for tensor in out.state.values()) for vector in vectors)
        folder = out.path / "clients"
        devices = {path.name for path in folder.iterdir()} if folder.exists() else set()
        assert devices == (set() if codec in ("qsgd", "eden") else {str(node) for node in range(6)})
