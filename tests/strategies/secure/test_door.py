"""What cannot be together with secure aggregation is refused before anything starts."""

from __future__ import annotations

from typing import Any

import pytest

from models.errors import SettingError
from tests.strategies.secure.keys import ON
from tests.support import configured


@pytest.mark.parametrize(
    ("key", "keys"),
    [
        ("heterofl-label-rows", {"heterofl_label_rows": True}),
        ("aggregation", {"aggregation": "q-fedavg"}),
        ("aggregation", {"aggregation": "fednova"}),
        ("clustering", {"clustering": "cfl"}),
        ("clustering", {"clustering": "ifca"}),
        ("method", {"method": "fiarse"}),
        ("method", {"method": "dropout"}),
        ("method", {"method": "fedecover"}),
        ("method", {"method": "splitmix"}),
        ("codec", {"codec": "qsgd"}),
        ("codec", {"codec": "ef21"}),
        ("guard-mean", {"guard_mean": "median"}),
        ("guard-norm", {"guard_norm": "clip"}),
        ("dp-noise", {"dp_noise": 1.0, "guard_rollbacks": 0}),
        ("over-selection", {"over_selection": 1.3}),
        ("selection", {"selection": "oort"}),
        ("selection", {"selection": "pow-d"}),
        ("min-cover", {"min_cover": 1}),
        ("secure-threshold", {"secure_threshold": 4, "min_cover": 4}),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(key: str, keys: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=f"^{key} = ") as caught:
        configured(**ON | keys)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "method", ["fedavg", "fedprox", "fedavgm", "fedrolex", "fjord", "depthfl", "inclusivefl", "nefl"]
)
def test_methods_whose_tiers_train_one_part(method: str) -> None:
    configured(**ON | {"method": method})
