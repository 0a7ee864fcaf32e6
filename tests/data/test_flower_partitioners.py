"""Flower's partitioners by name: parsed, checked, and the same parts as the partitioner itself makes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from flwr_datasets import partitioner as library

from data.call_text import parse_call
from data.flower_partitioners import _NOT_HERE, check_name, divide
from data.settings import DataSettings
from models.errors import SettingError

_LABELS = np.random.default_rng(0).integers(0, 4, 240)
_OWNERS = np.arange(240) // 20  # 12 people
_FOUR = {
    "IidPartitioner": "",
    "LinearPartitioner": "",
    "SquarePartitioner": "",
    "ExponentialPartitioner": "",
    "SizePartitioner": "(partition_sizes=[100, 60, 50, 30])",
    "DirichletPartitioner": "(alpha=0.5, partition_by=label, min_partition_size=1)",
    "InnerDirichletPartitioner": "(partition_sizes=[60, 60, 60, 60], partition_by=label, alpha=0.5)",
    "PathologicalPartitioner": "(num_classes_per_partition=2, class_assignment_mode='deterministic')",
    "ShardPartitioner": "(num_shards_per_partition=2)",
    "DistributionPartitioner": "(distribution_array=[[0.4, 0.6], [0.6, 0.4], [0.5, 0.5], [0.5, 0.5]],"
    " num_unique_labels_per_partition=2, preassigned_num_samples_per_label=2)",
    "NaturalIdPartitioner": "(partition_by=client)",
    "GroupedNaturalIdPartitioner": "(partition_by=client, group_size=3)",
    "ContinuousPartitioner": "(strictness=0.5, partition_by=label)",
}


def test_every_one_is_here_or_says_why_not() -> None:
    assert set(_FOUR) | set(_NOT_HERE) == set(library.__all__)


@pytest.mark.parametrize("name", _FOUR)
def test_parts_are_those_of_the_partitioner(name: str) -> None:
    text, clients = f"flwr:{name}{_FOUR[name]}", 12 if name == "NaturalIdPartitioner" else 4
    found = divide(text, _LABELS, _OWNERS, clients, seed=7)
    kind = getattr(library, name)
    arguments: dict[str, Any] = dict(check_name(text).arguments)
    if name == "DistributionPartitioner":
        arguments["distribution_array"] = np.array(arguments["distribution_array"])
    for key, value in (("num_partitions", clients), ("seed", 7), ("partition_by", "label")):
        if key in kind.__init__.__code__.co_varnames[: kind.__init__.__code__.co_argcount]:
            arguments.setdefault(key, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = kind(**arguments)
        theirs.dataset = Dataset.from_dict({"row": np.arange(240), "label": _LABELS, "client": _OWNERS})
        assert [part.tolist() for part in found] == [theirs.load_partition(i)["row"][:] for i in range(clients)]
    assert len(np.unique(np.concatenate(found))) == sum(map(len, found))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("flwr:Dirichlet", "one of Flower's partitioners: "),
        ("flwr:datasets", "one of Flower's partitioners: "),
        ("flwr:DirichletPartitioner(partition_by=label)", "needs alpha"),
        ("flwr:DirichletPartitioner(alpha=0.3, beta=1)", "has no beta; it has num_partitions, partition_by, alpha"),
        ("flwr:DirichletPartitioner(alpha=-1)", "arguments that DirichletPartitioner can use"),
        ("flwr:DirichletPartitioner(alpha=0.3, partition_by=colour)", "partition_by one of label, client"),
        ("flwr:DirichletPartitioner(0.3)", "arguments by their names"),
        ("flwr:DirichletPartitioner(alpha=__import__('os').getcwd())", "values that are numbers"),
        ("flwr:DirichletPartitioner(alpha=0.3", "a name, or a name with arguments"),
        ("flwr:IdToSizeFncPartitioner(partition_id_to_size_fn=abs)", "it takes a function"),
        ("flwr:VerticalEvenPartitioner", "it divides columns"),
        ("flwr:DirichletPartitioner(alpha=0.3, partition_by=[label])", "partition_by one of label, client"),
        ("flwr:DirichletPartitioner(alpha=0.3, partition_by=row)", "partition_by one of label, client"),
        ("flwr:SizePartitioner(partition_sizes=[120, 120])", "num-clients = 4: allowed is 2,"),
        ("flwr:NaturalIdPartitioner(partition_by=client)", "num-clients = 4: allowed is 12,"),
    ],
)
def test_what_cannot_be_says_why(text: str, said: str) -> None:
    with pytest.raises(SettingError) as error:
        divide(text, _LABELS, _OWNERS, 4, seed=1)
    assert said in str(error.value)


def test_a_run_that_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from data import shards

    settings = DataSettings(partition="flwr:DirichletPartitioner(alpha=0.3, partition_by=label)", num_clients=6)
    parts = shards(settings)
    assert len(parts) == 6
    assert len(np.unique(np.concatenate(parts))) == sum(map(len, parts)) == 1437
    with pytest.raises(SettingError, match="flwr:NAME"):
        DataSettings(partition="dirichlett")


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("A", {}),
        ("A()", {}),
        (
            "A(x=-1, y=[1, [2.5, a]], z='b c', t=true, f=False, n=none)",
            {"x": -1, "y": [1, [2.5, "a"]], "z": "b c", "t": True, "f": False, "n": None},
        ),
    ],
)
def test_what_is_parsed(text: str, arguments: dict[str, Any]) -> None:
    assert parse_call(text).arguments == arguments


@pytest.mark.parametrize(
    "text", ["", "a.b", "A(1)", "A(**x)", "A(x=b())", "A(x={})", "A(x=1+1)", "A(x=" + "[" * 500, "x" * 5000]
)
def test_what_is_not(text: str) -> None:
    with pytest.raises(ValueError, match=r"name|values|characters|arguments"):
        parse_call(text)


def test_columns_are_checked_when_settings_are_read() -> None:
    with pytest.raises(SettingError, match="partition_by one of label, client"):
        DataSettings(partition="flwr:DirichletPartitioner(alpha=0.3, partition_by=[label])")
