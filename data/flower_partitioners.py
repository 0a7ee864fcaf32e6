"""Flower's own partitioners by name: `partition = "flwr:DirichletPartitioner(alpha=0.3, partition_by=label)"`.

They divide the training examples after these were shuffled, as Flower's FederatedDataset does, and a client's id is the
partition's. `num_partitions` is `num-clients`, and `seed` follows the run's, unless they are given. Columns that they
may go by are `label` and, where the data set says whose an example is, `client`.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.call_text import Call, check_arguments, parse_call
from models.errors import SettingError

PREFIX = "flwr:"
# What no configuration can say, and what divides columns: clients here have different examples of the same columns.
_NOT_HERE = {
    "Partitioner": "it is what the others are made of",
    "IdToSizeFncPartitioner": "it takes a function; Linear-, Square- and ExponentialPartitioner bring theirs",
    "VerticalEvenPartitioner": "it divides columns, and clients here have the same ones",
    "VerticalSizePartitioner": "it divides columns, and clients here have the same ones",
}
_ROW, _LABEL, _CLIENT = "row", "label", "client"


def is_flower(name: str) -> bool:
    """Whether a partition is one of Flower's by its name."""
    return name.startswith(PREFIX)


def check_name(name: str) -> Call:
    """Read the name of a partition, without loading Flower's library.

    Raises:
        SettingError: it is none.
    """
    try:
        call = parse_call(name.removeprefix(PREFIX))
    except ValueError as error:
        allowed = f"{PREFIX}NAME(…), {error}, such as {PREFIX}DirichletPartitioner(alpha=0.3, partition_by=label)"
        raise SettingError("partition", name, allowed) from None
    if call.name in _NOT_HERE:
        raise SettingError("partition", name, f"another one of Flower's partitioners; {_NOT_HERE[call.name]}")
    if call.arguments.get("partition_by", _LABEL) not in [_LABEL, _CLIENT]:
        raise SettingError("partition", name, f"partition_by one of {_LABEL}, {_CLIENT}")
    return call


def divide(
    name: str, labels: NDArray[Any], owners: NDArray[np.int64] | None, clients: int, seed: int
) -> list[NDArray[np.int64]]:
    """Let one of Flower's partitioners divide examples.

    Args:
        name: of the partition, as the configuration has it.
        labels: [N] classes, or numbers where a label is one.
        owners: int64 [N], whose an example is, if the data set says.
        clients: how many there are to be.
        seed: for a partitioner that draws.

    Returns:
        Row numbers of each client, int64. Some partitioners leave examples over.

    Raises:
        SettingError: no such partitioner, arguments that it does not have or cannot use, or another number of clients.
    """
    call = check_name(name)
    columns: dict[str, Any] = {_ROW: np.arange(len(labels)), _LABEL: labels}
    if owners is not None:
        columns[_CLIENT] = owners
    by = call.arguments.get("partition_by", _LABEL)
    if by not in columns or by == _ROW:
        there = ", ".join(column for column in columns if column != _ROW)
        raise SettingError("partition", name, f"partition_by one of {there}")
    partitioner = _made(name, call, clients, seed)
    import datasets

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say of repeated draws
            partitioner.dataset = datasets.Dataset.from_dict(columns)
            count = partitioner.num_partitions
            parts = [np.asarray(partitioner.load_partition(one)[_ROW], dtype=np.int64) for one in range(count)]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ZeroDivisionError) as error:
        raise SettingError("partition", name, f"one that can divide {len(labels)} examples; {_said(error)}") from error
    if count != clients:
        raise SettingError("num-clients", clients, f"{count}, as many parts as {call.name} makes")
    if empty := [number for number, part in enumerate(parts) if not len(part)]:
        few = ", ".join(map(str, empty[:5]))
        raise SettingError("partition", name, f"one that leaves nobody without examples; clients {few} have none")
    return parts


def _made(name: str, call: Call, clients: int, seed: int) -> Any:
    from flwr_datasets import partitioner as library

    kind = getattr(library, call.name, None)
    if call.name not in library.__all__ or kind is None:
        there = ", ".join(one for one in library.__all__ if one not in _NOT_HERE)
        raise SettingError("partition", name, f"one of Flower's partitioners: {there}")
    try:
        given = {"num_partitions": clients, "seed": seed, "partition_by": _LABEL}
        arguments = check_arguments(call, inspect.signature(kind), given)
        return kind(**{key: _as_array(key, value) for key, value in arguments.items()})
    except (ValueError, TypeError) as error:
        raise SettingError("partition", name, f"arguments that {call.name} can use: {_said(error)}") from None


def _as_array(key: str, value: Any) -> Any:
    """Lists of lists are arrays, which is what DistributionPartitioner wants."""
    return np.asarray(value) if key == "distribution_array" else value


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
