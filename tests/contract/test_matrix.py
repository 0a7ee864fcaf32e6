"""Everything composes: methods x selectors x codecs, both ways x aggregations x clusters x slicing, two rounds each.

Every value of every setting is in the sample, each with several others; a combination that is refused at the door is
drawn again. An eighth of the sample runs with every change, the rest by `make test-slow`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import pytest

from models.errors import SettingError
from models.randomness import generator
from protocol import Scalar
from strategies.settings import DOWNLINK, SLICING
from tests.support import OF_ALL, Outcome, Player, configured, half_of

AXES: dict[str, Sequence[Mapping[str, Scalar]]] = {
    "method": [{"method": name} for name in OF_ALL],
    "selection": [
        {"selection": name}
        for name in ("uniform", "by-size", "by-size-replacement", "pow-d", "cpow-d", "rpow-d", "divfl")
    ]
    + [{"selection": name, "selection_lateness_exponent": 0.0} for name in ("oort", "utility")],
    "codec": [{"codec": name} for name in ("float32", "float16", "bfloat16", "ef21", "topk", "eden")]
    + [{"codec": "qsgd", "codec_entropy": entropy} for entropy in ("fixed", "elias", "range")],
    "aggregation": [{"aggregation": name} for name in ("method", "examples", "uniform", "q-fedavg", "fednova")]
    + [{"aggregation": "q-fedsgd", "local_steps": 1, "momentum": 0.0, "clip_norm": 0.0, "weight_decay": 0.0}],
    "clustering": [{"clustering": "none"}, {"clustering": "cfl"}]
    + [
        {"clustering": "ifca", "ifca_averaging": averaging, "ifca_shared": shared}
        for averaging in ("model", "gradient")
        for shared in (False, True)
    ],
    "codec-down": [{"codec_down": name} for name in DOWNLINK],
    "slice-at": [{"slice_at": where} for where in SLICING],
}
SAMPLES = 48
COMMON: dict[str, Any] = {"fraction_train": 0.7, "codec_small": 10, "num_server_rounds": 2}


def keys_of(sample: dict[str, int]) -> dict[str, Scalar]:
    keys: dict[str, Scalar] = dict(COMMON)
    for axis, place in sample.items():
        keys |= AXES[axis][place]
    return keys


def possible(keys: dict[str, Scalar]) -> bool:
    try:
        configured(**keys)
    except SettingError:
        return False
    return True


def drawn() -> list[dict[str, int]]:
    """A sample in which every value of an axis comes up about equally often; what cannot be is drawn again."""
    draws = generator(5, 0, "server", "matrix")
    decks = {axis: [i % len(values) for i in range(SAMPLES)] for axis, values in AXES.items()}
    for deck in decks.values():
        draws.shuffle(deck)
    samples = []
    for i in range(SAMPLES):
        sample = {axis: deck[i] for axis, deck in decks.items()}
        for axis in ("clustering", "codec-down", "codec", "aggregation", "selection"):
            if possible(keys_of(sample)):
                break
            for place in draws.permutation(len(AXES[axis])).tolist():
                if possible(keys_of(sample | {axis: place})):
                    sample[axis] = place
                    break
        samples.append(sample)
    return samples


DRAWN = drawn()


def named(sample: dict[str, int]) -> str:
    return "-".join(str(value) for axis, place in sample.items() for value in AXES[axis][place].values())


def finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, list):
        return all(map(finite, value))
    return not isinstance(value, float) or isfinite(value)


def test_the_sample_has_every_value() -> None:
    assert len({tuple(sample.values()) for sample in DRAWN}) >= 40
    for axis, values in AXES.items():
        assert set(Counter(sample[axis] for sample in DRAWN)) == set(range(len(values))), axis


@pytest.mark.parametrize(
    "sample", [pytest.param(one, marks=pytest.mark.slow) if i % 8 else one for i, one in enumerate(DRAWN)], ids=named
)
def test_two_rounds_are_finite_and_resumable(play: Player, sample: dict[str, int]) -> None:
    keys: dict[str, Any] = keys_of(sample)
    whole: Outcome = play(**keys)
    assert whole.summary["status"] == "finished"
    assert all(tensor.isfinite().all() for tensor in whole.state.values())
    assert finite(whole.rows)
    assert [row["abandoned"] for row in whole.rows] == [False, False]
    assert not whole.rejected
    half = half_of(play, 1, **keys)
    assert play(**keys, resume=str(half.path)).hash == whole.hash
