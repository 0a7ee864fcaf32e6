"""Both programs of docs/evidence.md's last table get the same examples, levels and weights; their scores are read."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.document import ROOT
from benchmarks.experiments.setting import command, plan, scores, split
from benchmarks.experiments.setting.devices import write_devices
from benchmarks.experiments.setting.scores import OURS, RELEASED, SAME_DEVICES, Score
from benchmarks.experiments.setting.statistics import ALL, RELEASED_WAY, estimate_as_released
from benchmarks.task import Options
from data import DataSettings
from data.node import node_data
from flotilla.settings import SettingsError
from models.algebra.plans import Plan
from models.networks.bases import first_state
from models.networks.build import build_part
from models.norms.layers import StaticBatchNorm
from models.predictions import predictions
from models.statistics import static_norms
from server_app.config import resolve
from strategies.tiers.tier import Assignment

FEW = plan.Extent(rounds=2, examples=20)
TRAIN, TEST = 2100, 100


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root whose Fashion-MNIST has a few drawn pictures."""
    root = tmp_path_factory.mktemp("published")
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    draws = np.random.default_rng(0)
    for name, count in (("train", TRAIN), ("t10k", TEST)):
        labels = np.arange(count) % 10
        pixels = 20 * labels[:, None, None] + draws.integers(0, 50, (count, 28, 28))
        split._write_idx(folder / f"{name}-images-idx3-ubyte", 2051, pixels)
        split._write_idx(folder / f"{name}-labels-idx1-ubyte", 2049, labels)
    return root


@pytest.fixture(scope="module")
def prepared(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], split.Place]:
    """Both programs' files of a part."""
    root = tmp_path_factory.mktemp("setting")

    def make(part: str) -> split.Place:
        place = split.place_of(root, part, FEW, 1)
        split.prepare(place, part, FEW, 1, str(published))
        return place

    return make


@pytest.mark.parametrize("part", plan.PARTS)
def test_both_programs_get_the_same_examples_and_levels(prepared: Callable[[str], split.Place], part: str) -> None:
    place = prepared(part)
    told = torch.load(place.checkpoint, weights_only=True)
    images = np.frombuffer((place.images / "train-images-idx3-ubyte").read_bytes(), np.uint8, offset=16)
    labels = np.frombuffer((place.images / "train-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
    images = images.reshape(-1, 28 * 28)
    of = resolve({}, overrides=plan.settings(FEW, 1, str(place.folder))).strategy().settings
    tiers = Assignment("fixed", of.tiers, proportions=of.proportions, nodes=of.nodes, seed=of.seed)
    data = DataSettings(
        dataset=f"npz:{plan.ARRAYS}",
        data_root=str(place.folder),
        partition="natural",
        num_clients=plan.DEVICES,
        local_test_fraction=0.0,
        seed=1,
    )
    ours = {tier.name: [n for n in range(plan.DEVICES) if tiers.tier_of(n, "", 1) == tier] for tier in of.tiers}
    assert [len(devices) for devices in ours.values()] == [20] * 5
    seen: list[int] = []
    for number, device in enumerate(chain(*ours.values())):  # `fix`: the first twenty of theirs have level a
        rows = told["data_split"]["train"][number]
        mine = node_data(data, device)
        theirs = np.concatenate([labels[rows, None], images[rows]], axis=1)
        pixels = mine.train.inputs.reshape(len(rows), -1).numpy()
        here = np.concatenate([mine.train.labels[:, None].numpy(), pixels], axis=1)
        # Ours have an order of their own, and are normalised: in one order, the same pictures correlate fully.
        theirs, here = (one[np.lexsort(one.T)] for one in (theirs, here))
        assert theirs[:, 0].tolist() == here[:, 0].tolist()
        assert np.corrcoef(theirs[:, 1:].ravel(), here[:, 1:].ravel())[0, 1] > 1 - 1e-6
        assert told["label_split"][number] == list(mine.labels) == sorted(set(labels[rows].tolist()))
        seen += rows
    assert sorted(seen) == list(range(plan.DEVICES * FEW.examples))
    if part == "two-classes":
        assert {len(held) for held in told["label_split"].values()} == {2}


@pytest.mark.parametrize("part", plan.PARTS)
def test_local_tests_of_the_released_code_have_each_devices_classes(
    prepared: Callable[[str], split.Place], part: str
) -> None:
    place = prepared(part)
    told = torch.load(place.checkpoint, weights_only=True)
    labels = np.frombuffer((place.images / "t10k-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
    rows = told["data_split"]["test"]
    assert sorted(chain(*rows.values())) == list(range(TEST))
    assert all(set(labels[rows[n]]) <= set(held) for n, held in told["label_split"].items())


def test_first_weights_are_the_same_network(prepared: Callable[[str], split.Place]) -> None:
    place = prepared("iid")
    blocks: list[nn.Module] = []
    for inputs, outputs in ((1, 64), (64, 128), (128, 256), (256, 512)):
        norm = nn.BatchNorm2d(outputs, momentum=None, track_running_stats=False)
        blocks += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.Identity(), norm, nn.ReLU(), nn.MaxPool2d(2)]
    theirs = nn.Module()
    theirs.blocks = nn.Sequential(*blocks[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))
    theirs.load_state_dict(torch.load(place.checkpoint, weights_only=True)["model_dict"])
    strategy = resolve({}, overrides=plan.settings(FEW, 1, str(place.folder))).strategy()
    ours = build_part(strategy.network, Plan())
    ours.load_state_dict(first_state(strategy.network, 1))
    batch = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 1, 28, 28)).astype(np.float32))
    (logits,) = predictions(ours.train(), batch)
    assert torch.allclose(theirs.blocks(batch), logits, atol=1e-5)


def test_statistics_as_the_released_code_has_them() -> None:
    """Those that PyTorch's batch norm has after one pass with `momentum=None`."""
    draws = torch.Generator().manual_seed(0)
    first, second = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 4, 3)
    theirs = [nn.BatchNorm2d(channels, momentum=None) for channels in (3, 4)]
    ours = nn.Sequential(first, StaticBatchNorm(3), nn.ReLU(), second, StaticBatchNorm(4))
    inputs = torch.randn(25, 1, 8, 8, generator=draws)
    for batch in torch.split(inputs, 10):
        theirs[1](second(torch.relu(theirs[0](first(batch)))))
    estimate_as_released(ours, inputs)
    for mine, their in zip(static_norms(ours).values(), theirs, strict=True):
        assert mine.statistics is not None
        assert their.running_mean is not None
        assert their.running_var is not None
        assert torch.allclose(mine.statistics[0], their.running_mean, atol=1e-6)
        assert torch.allclose(mine.statistics[1], their.running_var, atol=1e-6)
        assert mine.collector is None


def test_what_is_there_is_not_written_again(prepared: Callable[[str], split.Place]) -> None:
    place = prepared("iid")
    before = {file: file.stat().st_mtime_ns for file in place.folder.rglob("*") if file.is_file()}
    assert {file: file.stat().st_mtime_ns for file in prepared("iid").folder.rglob("*") if file.is_file()} == before


def test_devices_of_a_round_are_ours_in_their_numbers(prepared: Callable[[str], split.Place], tmp_path: Path) -> None:
    place = prepared("two-classes")
    with np.load(place.arrays) as arrays:
        owner = arrays["client_train"]
    ours = [[97, 29, 5], [0, 99, 29]]
    rows = [{"round": number, "selected": row} for number, row in enumerate(ours, 1)]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    told = torch.load(place.checkpoint, weights_only=True)["data_split"]["train"]
    lines = write_devices(tmp_path, place, FEW, 1).read_text(encoding="utf-8").splitlines()
    held = [[set(owner[told[int(device)]].tolist()) for device in line.split()] for line in lines]
    assert held == [[{device} for device in row] for row in ours]


def test_the_whole_is_the_authors_setting() -> None:
    told = {part: plan.extent(part, whole=True) for part in plan.PARTS}
    assert {part: one.rounds for part, one in told.items()} == {"iid": 200, "two-classes": 400}
    assert {one.examples * plan.DEVICES for one in told.values()} == {60_000}
    recipe = tomllib.loads((ROOT / "recipes" / "heterofl-mnist-iid.toml").read_text(encoding="utf-8"))
    ours = plan.settings(told["iid"], 1, "")
    # The levels of the recipe are redrawn every round; its data set is the paper's.
    differ = {key for key, value in recipe.items() if ours[key] != value}
    assert differ == {"dataset", "partition", "tier-assignment", "evaluate-every"}


LOG = """Experiment: 1_MNIST_label_conv_1_100_0.1_iid_fix_a1-b1_bn_1_1
Model: 1_MNIST  Train Epoch: 1(0%)  Local-Loss: 1.6  Local-Accuracy: 55.4  ID: 39(1/10)  Rate: 0.5
Model: 1_MNIST  Test Epoch: 1(100%)  Local-Loss: 0.55  Local-Accuracy: 80.1  Global-Loss: 0.55  Global-Accuracy: 83.5300
Model: 1_MNIST  Test Epoch: 2(100%)  Local-Loss: 0.55  Local-Accuracy: 80.1  Global-Loss: 0.55  Global-Accuracy: 85.0100
"""
WHICH = scores.Run(part="iid", seed=1, examples=20, rounds=2)


def test_what_the_released_code_printed_is_read_once_it_has_ended(tmp_path: Path) -> None:
    log = tmp_path / "reference.log"
    assert scores.of_released(WHICH, log) == []
    log.write_text(LOG)
    assert scores.of_released(WHICH, log) == []  # half a run is none
    log.write_text(f"{LOG}real 100.00\nuser 80.25\nsys 1.50\n")
    found = scores.of_released(WHICH, log)
    assert [(one.round, one.accuracy) for one in found] == [(1, 0.8353), (2, 0.8501)]
    assert {(one.program, one.tier, one.cpu_seconds) for one in found} == {(RELEASED, "global", 81.8)}
    log.write_text(f"Experiment: 1_MNIST\n{LOG}user 80.25\nsys 1.50\n")  # it was stopped and went on
    assert {one.cpu_seconds for one in scores.of_released(WHICH, log)} == {None}
    with pytest.raises(SettingsError, match="allowed is a run of 3 rounds"):
        scores.of_released(replace(WHICH, rounds=3), log)


def test_a_table_has_rounds_the_best_and_tiers_where_there_are_some(tmp_path: Path) -> None:
    def score(program: str, tier: str, number: int, accuracy: float) -> Score:
        return Score(
            part="iid",
            program=program,
            seed=1,
            examples=20,
            rounds=2,
            tier=tier,
            round=number,
            accuracy=accuracy,
            cpu_seconds=10.4,
            torch="2" if program == OURS else "",
        )

    found = [score(OURS, "global", 1, 0.8), score(OURS, "a", 1, 0.1), score(OURS, "global", 2, 0.7)]
    found += [score(OURS, "a", 2, 0.7), score(RELEASED, "global", 1, 0.75), score(RELEASED, "global", 2, 0.76)]
    found += [replace(found[2], program=f"{OURS}, mixed", cpu_seconds=None)]
    lines = command.text(found).splitlines()
    assert lines[6] == "| ours, mixed | 1 | – | 70.00 | – | – | – | – | – | – | – |"
    assert lines[0] == "**IID**: 2 rounds, 20 examples a device; accuracies in %"
    assert lines[2] == "| program | seed | round 1 | round 2 | best | a | b | c | d | e | CPU s |"
    assert lines[4] == "| ours | 1 | 80.00 | 70.00 | 80.00 | 70.00 | – | – | – | – | 10 |"
    assert lines[5] == "| released code | 1 | 75.00 | 76.00 | 76.00 | – | – | – | – | – | 10 |"
    larger = [replace(one, examples=600) for one in found]
    assert command.text([*found, *larger]).splitlines() == [lines[0].replace("20", "600"), *lines[1:], "", *lines]
    file = tmp_path / "setting.csv"
    file.write_text(scores.as_csv(found))
    assert scores.read_csv(file) == found
    file.write_text("part,method\nx,y\n")
    with pytest.raises(SettingsError, match="allowed is a file that this command wrote"):
        scores.read_csv(file)


def test_what_is_written_stands_beside_other_extents_and_in_place_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(examples: int, accuracy: float) -> Score:
        what = {"part": "iid", "program": OURS, "seed": 1, "rounds": 2, "tier": "global", "round": 2, "torch": "2"}
        return Score(**what, examples=examples, accuracy=accuracy, cpu_seconds=1.0)  # type: ignore[arg-type]

    monkeypatch.setattr(command, "NUMBERS", tmp_path / "setting.csv")
    monkeypatch.setattr(command, "DOCUMENT", tmp_path / "evidence.md")
    command.NUMBERS.write_text(scores.as_csv([score(100, 0.1), score(600, 0.2)]))
    command.DOCUMENT.write_text("<!-- evidence setting:begin -->\n<!-- evidence setting:end -->\n")
    monkeypatch.setattr(command, "measured", lambda part, seed, options: [score(600, 0.3)])
    assert command.TASK(["iid", "--whole", "--write"], "setting", None) == 0
    assert [(one.examples, one.accuracy) for one in scores.read_csv(command.NUMBERS)] == [(100, 0.1), (600, 0.3)]
    written = command.DOCUMENT.read_text()
    assert written.index("600 examples") < written.index("100 examples")
    assert "30.00" in written
    assert "20.00" not in written


def test_the_document_has_the_numbers_that_are_checked_in() -> None:
    assert command.text(scores.read_csv(command.NUMBERS)) in command.DOCUMENT.read_text(encoding="utf-8")


@pytest.mark.slow
def test_ours_is_run_and_both_are_read(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "extent", lambda part, *, whole, rounds: replace(FEW, rounds=rounds))
    options = Options(["iid"], seeds=[1], rounds=2, data_root=str(published), root=tmp_path)
    found = command.measured("iid", 1, options)
    own = {(OURS, tier, number) for tier in ("global", *plan.LEVELS) for number in (1, 2)}
    others = {(f"{OURS}, {name}", "global", 2) for name in (ALL, RELEASED_WAY)}
    assert {(one.program, one.tier, one.round) for one in found} == own | others
    assert "no finished run of the released code" in capsys.readouterr().err
    place = split.place_of(tmp_path, "iid", FEW, 1)
    drawn = (place.folder / "reference" / "devices.txt").read_text(encoding="utf-8").splitlines()
    assert [len(set(line.split())) for line in drawn] == [10, 10]
    for log in command.LOGS.values():
        (place.folder / log).write_text(f"{LOG}user 80.25\nsys 1.50\n")
    again = command.measured("iid", 1, options)
    assert again[: len(found)] == found
    told = [(one.program, one.accuracy) for one in again[len(found) :]]
    assert told == [(program, accuracy) for program in (RELEASED, SAME_DEVICES) for accuracy in (0.8353, 0.8501)]
