"""What can happen to a reply on its way, and what a run then has to come to."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from protocol import DIFFERENCE
from tests.support import Outcome

VICTIM = 2

FOUR: dict[str, Any] = {"num_clients": 4}

Change = Callable[[RecordDict], None]


def difference(content: RecordDict) -> np.ndarray[Any, Any]:
    return content.array_records["arrays"][DIFFERENCE].numpy().copy()


def put(content: RecordDict, array: Array, name: str = DIFFERENCE) -> None:
    content["arrays"] = ArrayRecord({name: array})


def values(change: Callable[[np.ndarray[Any, Any]], Any]) -> Change:
    """The difference is another one."""
    return lambda content: put(content, Array(np.asarray(change(difference(content)))))


def metrics(**changed: Any) -> Change:
    """Other numbers; None removes one."""

    def change(content: RecordDict) -> None:
        numbers = dict(content.metric_records["metrics"]) | {k.replace("_", "-"): v for k, v in changed.items()}
        content["metrics"] = MetricRecord({key: value for key, value in numbers.items() if value is not None})

    return change


def config(**changed: Any) -> Change:
    def change(content: RecordDict) -> None:
        fields = dict(content.config_records["config"]) | changed
        content["config"] = ConfigRecord({key: value for key, value in fields.items() if value is not None})

    return change


def data(change: Callable[[bytes], bytes]) -> Change:
    """Other bytes under the same description."""

    def changed(content: RecordDict) -> None:
        old = content.array_records["arrays"][DIFFERENCE]
        put(content, Array(old.dtype, old.shape, old.stype, change(old.data)))

    return changed


def described(dtype: str | None = None, stype: str | None = None, shape: tuple[int, ...] | None = None) -> Change:
    """The same bytes under another description."""

    def changed(content: RecordDict) -> None:
        old = content.array_records["arrays"][DIFFERENCE]
        put(content, Array(dtype or old.dtype, old.shape if shape is None else shape, stype or old.stype, old.data))

    return changed


def without_record(name: str) -> Change:
    def change(content: RecordDict) -> None:
        del content[name]

    return change


def with_record(name: str, record: Any) -> Change:
    def change(content: RecordDict) -> None:
        content[name] = record

    return change


def one(value: float) -> Change:
    def change(flat: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        flat[7] = value
        return flat

    return values(change)


def flipped(position: int) -> Change:
    return data(lambda old: old[:position] + bytes([old[position] ^ 0x10]) + old[position + 1 :])


def extra_array(content: RecordDict) -> None:
    content.array_records["arrays"]["more"] = Array(np.zeros(3, np.float32))


def other_name(content: RecordDict) -> None:
    put(content, content.array_records["arrays"][DIFFERENCE], "weights")


def objects(content: RecordDict) -> None:
    """A pickle, in what says it is an array of floats."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([print], dtype=object), allow_pickle=True)
    old = content.array_records["arrays"][DIFFERENCE]
    put(content, Array(old.dtype, old.shape, old.stype, buffer.getvalue()))


def ten_gigabytes(content: RecordDict) -> None:
    old = content.array_records["arrays"][DIFFERENCE]
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2_500_000_000,)})
    put(content, Array(old.dtype, (2_500_000_000,), old.stype, header.getvalue() + b"\0" * 64))


def assert_as_without(out: Outcome, reference: Outcome, word: str) -> None:
    assert out.hash == reference.hash
    assert out.summary["status"] == "finished"
    first, *later = out.rows
    ((rejection,), *none) = (row["rejected"] for row in out.rows)
    assert rejection["node"] == VICTIM
    assert word in rejection["reason"]
    assert "\n" not in rejection["reason"]
    assert first["accepted"] == 3
    assert all(row["accepted"] == 4 for row in later)
    assert not any(none)
