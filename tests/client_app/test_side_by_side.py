"""Clients that an engine asks one after the other learn side by side what each learns alone, bit for bit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from torch import Tensor

from client_app import fused_training, model_cache, side_by_side
from client_app.training import Trained
from data import Split
from flotilla.local.groups import grouped
from flotilla.local.pool import PoolGrid
from models.fused.network import Pass
from protocol import TRAIN, Scalar
from server_app.run import Run
from tests.client_app.groups import SMALL, alone, noted
from tests.support import Outcome, Player, address_of, configured, trains, without

CNN: dict[str, Scalar] = {"model": "cnn", "widths": "8, 12", "batch_size": 16}
# What goes into a client's training, one by one.
CASES: dict[str, dict[str, Scalar]] = {
    "mlp": {},
    "cnn": CNN,
    "numbers that fill no cache line": {"model": "cnn", "widths": "7, 11", "batch_size": 5, "scaler": "on"},
    "classes that some lack": {"partition": "dirichlet-balanced", "dirichlet_alpha": 0.1},
    "augmentation": CNN | {"augment": "crop-flip"},
    "steps": {"local_steps": 3},
    "FedProx": {"method": "fedprox", "fedprox_mu": 0.1},
    "windows that move": {"method": "fedrolex"},
    "parts that are drawn for each": {"method": "dropout"},
    "parts that come sliced": {"method": "fedrolex", "slice_at": "server"},
    "utility, which asks for losses": {"selection": "utility"},
    "q-FedAvg, whose weights are losses": {"method": "fedavg", "aggregation": "q-fedavg"},
    "secure sums": {"secure_aggregation": True, "tiers": "a:1", "min_cover": 3, "heterofl_label_rows": False},
    "a codec that draws": {"codec": "qsgd"},
}


@pytest.fixture(autouse=True)
def nothing_is_known() -> Iterator[None]:
    """Of no shape it is known whether its sums differ, neither before a test nor after it."""
    with patch.object(model_cache, "_models", OrderedDict()):
        yield


def told(outcome: Outcome) -> list[object]:
    """What a run says of its rounds but for times."""
    return [[row[key] for key in ("train_loss", "train_accuracy", "accepted", "rejected")] for row in outcome.rows]


@pytest.mark.parametrize("case", CASES)
def test_a_run_is_the_same_bit_for_bit(case: str, play: Player) -> None:
    keys, shared = SMALL | CASES[case], list[bool]()
    with noted(shared) as sizes:
        found = play(**keys)
    with noted() as singles, alone():
        wanted = play(**keys)
    assert max(sizes) > 1 == max(singles)
    assert shared
    assert all(shared)  # one state in memory, and one part of it
    assert found.hash == wanted.hash
    assert told(found) == told(wanted)


def test_over_processes_too(tmp_path: Path, play: Player) -> None:
    keys = SMALL | CNN
    config = configured(**keys, run_dir=str(tmp_path / "pool"))
    with PoolGrid(config.flat, config.num_clients, 2) as grid:
        Run(config, grid, write=list[str]().append).execute()
    found = Outcome(tmp_path / "pool", {}, [])
    with alone():
        assert found.hash == play(**keys).hash


def test_steps_are_looked_at_in_pieces(play: Player) -> None:
    keys = SMALL | {"partition": "dirichlet", "dirichlet_alpha": 0.5, "local_epochs": 2}
    wanted = play(**keys)
    with patch.object(fused_training, "_UNSEEN", 200):
        found = play(**keys)
    assert found.hash == wanted.hash
    assert told(found) == told(wanted)


def test_where_sums_differ_everybody_is_computed_alone(play: Player) -> None:
    """A machine whose sums of several clients are off: it is found out at the first step, which does not count."""
    together, differentiate = list[tuple[int, ...]](), Pass.differentiate

    def off(self: Pass, wanted: Tensor, absent: Tensor | None) -> Tensor:
        logs = differentiate(self, wanted, absent)
        if len(wanted) > 1:
            together.append((id(self), *wanted.shape))
            self._buffers.gradient(next(iter(self._buffers.weight.__self__._own)))[-1] += 1e-7  # type: ignore[attr-defined]
        return logs

    keys = SMALL | CNN
    with patch.object(Pass, "differentiate", off):
        found = play(**keys)
    with alone():
        assert found.hash == play(**keys).hash
    assert together
    assert len(together) == len(set(together))  # once for each number of clients, examples and tier


def test_clients_of_unlike_numbers_of_examples(play: Player) -> None:
    """Whoever has a full batch left takes the step with the others who have."""
    keys = SMALL | CNN | {"partition": "dirichlet", "dirichlet_alpha": 0.5, "local_epochs": 2}
    sizes, differentiate = list[int](), Pass.differentiate

    def note(self: Pass, wanted: Tensor, absent: Tensor | None) -> Tensor:
        sizes.append(len(wanted))
        return differentiate(self, wanted, absent)

    with patch.object(Pass, "differentiate", note):
        found = play(**keys)
    assert {1, 2, 3, 4} <= set(sizes)
    with alone():
        wanted = play(**keys)
    assert found.hash == wanted.hash
    assert told(found) == told(wanted)


def test_a_client_without_a_reply_costs_the_others_nothing(play: Player) -> None:
    with alone():
        wanted = play(without(2), **SMALL)
    assert play(without(2), **SMALL).hash == wanted.hash


@pytest.mark.parametrize("wrong", ["its data", "its labels"])
def test_what_is_wrong_with_one_is_said_in_its_turn(wrong: str, play: Player) -> None:
    """The others of its group are trained, and its own reply is the error, whatever that is."""
    from client_app import device, handlers

    read = device.data_of

    def broken(context: Any, facts: str = "") -> Any:
        found = read(context, facts)
        if context.node_config["partition-id"] != 3:
            return found
        if wrong == "its data":
            raise RuntimeError("unreadable")
        return replace(found, train=Split(found.train.held, found.train.labels + 99))

    keys: dict[str, Scalar] = {"quorum": 0.5, "num_server_rounds": 1}
    with patch.object(handlers, "data_of", broken), patch.object(side_by_side, "data_of", broken):
        found = play(**SMALL | keys)
        with alone():
            wanted = play(**SMALL | keys)
    assert found.hash == wanted.hash
    assert {one["node"] for one in found.rejected} == {one["node"] for one in wanted.rejected} == {3}


def test_seconds_are_shared_out() -> None:
    """Each its own, and an even share of what is nobody's."""
    trained = [Trained(loss=0.0, accuracy=0.0, steps=1, seconds_computing=seconds) for seconds in (1.0, 5.0)]
    assert side_by_side._seconds(trained, 7.0) == [1.5, 5.5]


def test_nobody_says_less_than_it_computed(play: Player) -> None:
    said: list[tuple[float, float]] = []

    def note(request: Message, reply: Message) -> list[Message]:
        if trains(request):
            metrics = reply.content["metrics"]
            said.append((float(metrics["seconds"]), float(metrics["seconds-computing"])))  # type: ignore[arg-type]
        return [reply]

    with noted() as sizes:
        play(note, **SMALL | CNN | {"partition": "dirichlet", "num_server_rounds": 1})
    assert max(sizes) > 1
    assert len(said) == 8
    assert all(seconds >= computing > 0 for seconds, computing in said)


def test_what_cannot_be_read_is_trained_with_nobody() -> None:
    for content in (RecordDict(), RecordDict({"request": ConfigRecord({"version": 1, "nonce": "x"})})):
        assert side_by_side.most_together(content) == 1
        side_by_side.expect([(content, None)])  # type: ignore[list-item]
    assert not side_by_side._expected.asked
    assert side_by_side.likeness(RecordDict()) is None


def test_wide_networks_are_trained_alone(play: Player) -> None:
    """What has too many parameters to be kept until its turn comes, or outgrows a core's cache side by side."""
    cases: list[dict[str, Scalar]] = [
        {"widths": "500, 500, 500"},
        {"model": "cnn", "widths": "64, 8", "batch_size": 64},
    ]
    for keys in cases:
        with noted() as sizes:
            play(**SMALL | keys | {"tiers": "a:1", "num_server_rounds": 1})
        assert set(sizes) == {1}


def asked(number: int, said: int, kind: str = TRAIN) -> Message:
    content = RecordDict({"request": ConfigRecord({"rate": said, "nonce": f"{number}"})})
    one = Message(content, address_of(number), kind)
    one.metadata.__dict__["_message_id"] = f"{number}"
    return one


def placed(messages: Sequence[Message], processes: int, examples: Sequence[int] | None = None) -> list[list[int]]:
    """Groups of at most three, as places."""
    directory: Any = None if examples is None else SimpleNamespace(examples=examples)
    with patch("flotilla.local.groups.most_together", lambda content: 3):
        found = grouped(messages, processes, directory)
    return [[int(one.metadata.message_id) for one in group] for group in found]


def test_messages_are_grouped_where_the_first_of_them_stood() -> None:
    messages = [asked(i, said) for i, said in enumerate([1, 2, 1, 1, 2, 1, 1])] + [asked(7, 1, "evaluate.part")]
    assert placed(messages, 2) == [[0, 2, 3], [1], [4], [5, 6], [7]]
    assert placed(messages, 1) == [[0, 2, 3], [1, 4], [5, 6], [7]]


def test_those_with_about_as_many_examples_are_together() -> None:
    assert placed([asked(i, 1) for i in range(6)], 1, [9, 90, 8, 80, 7, 70]) == [[0, 2, 4], [1, 3, 5]]


def test_a_group_spans_no_more_than_so_many_messages() -> None:
    """However unlike their examples are: replies are taken in order, and those of a group come together."""
    count = 4 * 16 * 3
    groups = placed([asked(i, 1) for i in range(count)], 2, [i % 64 for i in range(count)])
    assert max(max(group) - min(group) for group in groups) < 4 * 16
    assert sorted(place for group in groups for place in group) == list(range(count))
