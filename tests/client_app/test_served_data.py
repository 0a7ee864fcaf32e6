"""What `serve` is given as data: made what the network takes, or refused with the function's name."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from flwr.app import Context, RecordDict

from client_app.served_data import ServedData
from data import Split
from protocol import WireError

CONTEXT = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
INPUTS, LABELS = torch.rand(6, 1, 2, 2), torch.tensor([2, 0, 2, 0, 1, 1])


def served(given: Any, **more: Any) -> ServedData:
    told = {"test_data": None, "count": None, "known_labels": None, **more}
    return ServedData(data=lambda context: cast(Any, given), **told)


@pytest.mark.parametrize(
    "given",
    [
        (INPUTS, LABELS.int()),
        (INPUTS, LABELS.to(torch.uint8)),
        (INPUTS.numpy(), LABELS.numpy()),
        [INPUTS.double().numpy(), LABELS.numpy().astype(np.int16)],
        Split(INPUTS, LABELS),
    ],
)
def test_any_whole_numbers_and_arrays_will_do(given: Any) -> None:
    device = served(given)
    found = device.examples(CONTEXT)
    assert torch.equal(found.inputs, INPUTS)
    assert (found.labels.dtype, found.labels.tolist()) == (torch.int64, LABELS.tolist())
    assert (device.labels(CONTEXT), device.size(CONTEXT)) == ((0, 1, 2), 6)


def test_numbers_in_place_of_classes() -> None:
    device = served((INPUTS, np.ones((6, 3))))
    assert device.examples(CONTEXT).labels.dtype == torch.float32
    assert device.labels(CONTEXT) == (0, 1, 2)


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        ((INPUTS, LABELS.float()), r"labels of an integer type \[N\], .*; these are float32 \[6\]"),
        ((INPUTS, LABELS[:5]), "as many labels as inputs; there are 6 inputs and 5 labels"),
        ((INPUTS[:0], LABELS[:0]), "at least one example; it gives none"),
        ((INPUTS, LABELS.tolist()), "labels as a tensor or a NumPy array; these are of type list"),
        ((INPUTS, np.array(list("abcdef"))), "labels of numbers; these are <U1"),
        ((LABELS, LABELS), r"inputs \[N, …\]; these are int64 \[6\]"),
        ((INPUTS, LABELS, LABELS), "two tensors, inputs and labels; it gives 3 things"),
        (None, "two tensors, inputs and labels; it gives a NoneType"),
    ],
)
def test_what_is_no_data_is_one_line(given: Any, allowed: str) -> None:
    device = served(given, test_data=lambda context: given)
    for name, ask in (("data", device.examples), ("data", device.labels), ("test_data", device.held_out)):
        with pytest.raises(WireError, match=rf"^serve\(…, {name}=…\): allowed is {allowed}") as caught:
            ask(CONTEXT)
        assert "\n" not in str(caught.value)
