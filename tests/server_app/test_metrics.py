"""The headline and other metrics: held against their definitions, and what a run makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data import InputFacts
from flotilla.serving.load import load
from flotilla.serving.predict import predict
from models.errors import SettingError
from server_app.metrics import Headline, Measure, client_figure
from tests.support import configured, play
from tests.tables import write_tables

FACTS = InputFacts(dataset="t", classes=("a", "b", "c"), input_shape=(4,), mean=(0.0,) * 4, std=(1.0,) * 4)


def _measured(task: str, outputs: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    facts = InputFacts.from_json(FACTS.to_json().replace('"classification"', f'"{task}"'))
    return Measure(facts=facts, headline=Headline(), more=True)(outputs, labels)


def test_metrics_of_classes_are_their_definitions() -> None:
    draws = torch.Generator().manual_seed(1)
    labels = torch.arange(60) % 3 * (torch.arange(60) % 2)  # unequal classes
    outputs = torch.randn(60, 3, generator=draws) + 1.5 * torch.nn.functional.one_hot(labels, 3)
    found, guess = _measured("classification", outputs, labels), outputs.argmax(1)
    recalls, scores, areas = [], [], []
    for one in range(3):
        true, said = labels == one, guess == one
        hit = int((true & said).sum())
        recalls.append(hit / int(true.sum()))
        scores.append(2 * hit / (int(true.sum()) + int(said.sum())))
        chance = outputs.softmax(1)[:, one]
        pairs = chance[true][:, None] - chance[~true][None]
        areas.append(float((pairs > 0).double().mean() + 0.5 * (pairs == 0).double().mean()))
    assert found["balanced-accuracy"] == pytest.approx(np.mean(recalls))
    assert found["f1"] == pytest.approx(np.mean(scores))
    assert found["auc"] == pytest.approx(np.mean(areas), rel=1e-5)
    assert list(found["per_class"].values()) == pytest.approx(recalls)
    assert found["confusion"] == [[int(((labels == i) & (guess == j)).sum()) for j in range(3)] for i in range(3)]
    assert found["accuracy"] == pytest.approx(float((guess == labels).double().mean()))
    assert np.log(found["perplexity"]) == pytest.approx(found["loss"])


def test_metrics_of_numbers_and_of_several_labels() -> None:
    outputs, labels = torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [0.0]])
    found = _measured("regression", outputs, labels)
    assert (found["mae"], found["rmse"], found["loss"]) == pytest.approx((2.0, 5**0.5, 5.0))
    answers = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    found = _measured("multi-label", torch.tensor([[2.0, -1.0, -1.0], [-3.0, -1.0, 4.0]]), answers)
    assert found["accuracy"] == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    ("rule", "values", "ends"),
    [
        ({"target": 0.9}, [0.5, 0.89], False),
        ({"target": 0.9}, [0.5, 0.9], True),
        ({"target": 10.0, "higher": False}, [30, 11], False),
        ({"target": 10.0, "higher": False}, [30, 9.5], True),
        ({"patience": 2}, [0.5, 0.6, 0.6], False),
        ({"patience": 2}, [0.5, 0.6, 0.6, 0.5], True),
        ({"patience": 2, "higher": False}, [5, 4, 6, 3, 4], False),
        ({"patience": 1, "higher": False}, [5, 4, 4], True),
        ({"patience": 1}, [], False),
    ],
)
def test_when_a_run_has_had_enough(rule: dict[str, Any], values: list[float], ends: bool) -> None:
    assert bool(Headline(**rule).enough(values)) == ends


def test_what_devices_say_follows_the_headline() -> None:
    said = {"loss": 4.0, "accuracy": 0.25, "score": 0.75}
    numbers = InputFacts.from_json(FACTS.to_json().replace('"classification"', '"regression"'))
    for name, facts, value, share in (
        ("accuracy", FACTS, 0.25, True),
        ("f1", FACTS, 0.75, True),
        ("loss", FACTS, 4.0, False),
        ("perplexity", FACTS, np.exp(4.0), False),
        ("rmse", numbers, 2.0, False),
        ("mae", numbers, 0.75, False),
    ):
        figure = client_figure(Headline(name=name), facts)
        assert figure.of(said) == pytest.approx(value)
        assert figure.share is figure.higher is share
    auc = client_figure(Headline(name="auc"), FACTS)
    assert auc.of({"loss": 4.0, "accuracy": 1.0}) is None  # a device of one class does not say it


def test_fairness_is_that_of_the_headline(tmp_path: Path) -> None:
    """Two classes a client, so each says an AUC of its two; and what every client says is its own F1."""
    keys: dict[str, Any] = {"num_clients": 5, "partition": "labels", "num_server_rounds": 1, "fraction_evaluate": 1.0}
    for name in ("f1", "auc", "balanced-accuracy"):
        row = play(tmp_path / name, metric=name, **keys).rows[-1]
        assert row["fairness"]["metric"] == name
        assert len(row["clients"]) == row["fairness"]["clients"] == 5
        assert all(0 <= value <= 1 for value in row["clients"].values())
        assert row["fairness"]["mean"] == pytest.approx(np.mean(list(row["clients"].values())))
    one = play(tmp_path / "one", metric="auc", **keys | {"num_clients": 10, "labels_per_client": 1}).rows[-1]
    assert (one["clients"], "fairness" in one) == ({}, False)


def test_a_run_ends_at_its_target_and_stays_ended(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"num_clients": 3, "num_server_rounds": 4, "evaluate_every": 1, "metric": "f1"}
    out = play(tmp_path / "run", target="0.01", more_metrics=True, **keys)
    assert out.summary["status"] == "finished"
    assert out.summary["rounds"] == 1
    assert "reached the target 0.01" in out.summary["ended"]
    assert out.summary["metric"] == {"name": "f1", "better": "higher", "share": True}
    last = out.summary["last"]
    assert last["score"] == last["metrics"]["f1"] == out.summary["best"]["score"]
    assert np.array(last["metrics"]["confusion"]).sum() == 360
    assert set(last["tiers"]["a"]["metrics"]["per_class"]) == set("0123456789")
    assert any(line.startswith("round 1/4 | f1 ") for line in out.lines)
    assert load(out.path, "c").card.accuracy == last["tiers"]["c"]["accuracy"]
    assert play(tmp_path, resume=str(out.path), target="0.01", more_metrics=True, **keys).summary["rounds"] == 1
    again = play(tmp_path, resume=str(out.path), target="", more_metrics=True, **keys | {"num_server_rounds": 2})
    assert again.summary["rounds"] == 2
    assert "ended" not in again.summary


def test_a_regression_of_a_table(tmp_path: Path) -> None:
    """By configuration alone: numbers in the data's units, the best round the one of the lowest error."""
    write_tables(tmp_path, "diabetes")
    keys: dict[str, Any] = {
        "dataset": "csv:diabetes.csv",
        "data_root": str(tmp_path),
        "task": "regression",
        "table_clients": "site",
        "partition": "natural",
        "num_clients": 4,
        "num_server_rounds": 3,
        "evaluate_every": 1,
        "batch_size": 16,
        "fraction_evaluate": 1.0,
    }
    out = play(tmp_path / "run", learning_rate=0.05, **keys)
    errors = [row["score"] for row in out.rows]
    assert out.summary["best"]["score"] == min(errors)
    assert out.summary["last"]["accuracy"] is None
    assert not out.rejected
    rows = (tmp_path / "diabetes.csv").read_text().splitlines()
    spread = np.std([float(row.split(",")[-1]) for row in rows[1:]])
    assert min(errors) < 0.95 * spread  # better than the mean of all
    assert set(out.rows[-1]["clients"]) == {"0", "1", "2", "3"}
    fair, each = out.rows[-1]["fairness"], out.rows[-1]["clients"].values()  # of the headline, in the data's units
    assert fair["metric"] == "rmse"
    assert 0.3 * spread < min(each) == fair["best_10_percent_mean"] <= fair["mean"] < 3 * spread
    assert fair["worst_10_percent_mean"] == max(each)
    (tmp_path / "new.csv").write_text("\n".join(rows[:4]))
    model = load(out.path, "b")
    said = [one.values["outcome"] for one in predict(model, [tmp_path / "new.csv"])]
    assert len(said) == 3
    assert all(0 < value < 400 for value in said)
    told = json.loads(next(predict(model, [tmp_path / "new.csv"])).to_json(model.classes))
    assert told["values"]["outcome"] == said[0]


@pytest.mark.parametrize("method", ["fedavg", "fjord", "depthfl", "splitmix"])
def test_every_kind_of_objective_learns_several_labels(tmp_path: Path, method: str) -> None:
    draws = np.random.default_rng(0)
    x = draws.normal(size=(160, 5)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=x, y=(x[:, :3] > 0).astype(np.int64))
    distillation = {"depthfl_distillation": False} if method == "depthfl" else {}
    out = play(
        tmp_path / "run",
        method=method,
        dataset="npz:a.npz",
        data_root=str(tmp_path),
        task="multi-label",
        num_clients=3,
        batch_size=16,
        local_epochs=8,
        num_server_rounds=3,
        **distillation,  # type: ignore[arg-type]
    )
    assert not out.rejected
    assert out.summary["last"]["accuracy"] > 0.6


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"metric": "rmse"}, "metric"),
        ({"target": "soon"}, "target"),
        ({"target": "nan"}, "target"),
        ({"patience": -1}, "patience"),
        ({"metric": "beauty"}, "metric"),
    ],
)
def test_what_is_no_metric_is_refused(keys: dict[str, Any], key: str) -> None:
    with pytest.raises(SettingError) as caught:
        configured(**keys)
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"method": "depthfl"}, "depthfl-distillation"),
        ({"metric": "accuracy"}, "metric"),
        ({"partition": "labels"}, "partition"),
        ({"model": "cnn", "widths": ""}, "model"),
    ],
)
def test_what_numbers_do_not_have_is_refused(tmp_path: Path, keys: dict[str, Any], key: str) -> None:
    (tmp_path / "t.csv").write_text("x,y\n" + "".join(f"{n},{n / 3}\n" for n in range(40)))
    with pytest.raises(SettingError) as caught:
        configured(dataset="csv:t.csv", data_root=str(tmp_path), task="regression", **keys)
    assert caught.value.key == key
