from __future__ import annotations

from math import cos, pi

import pytest

from models.errors import SettingError
from strategies import Schedule, Settings, Tier


def rates(schedule: Schedule, rounds: int) -> list[float]:
    return [schedule.optimiser(number).learning_rate for number in range(1, rounds + 1)]


def test_constant() -> None:
    assert rates(Schedule(learning_rate=0.3), 4) == [0.3] * 4


def test_step_falls_after_its_milestones() -> None:
    assert rates(Schedule(learning_rate=1.0, kind="step", milestones=(2, 3), decay=0.1), 5) == pytest.approx(
        [1, 1, 0.1, 0.01, 0.01]
    )


def test_exponential() -> None:
    assert rates(Schedule(learning_rate=1.0, kind="exponential", decay=0.5), 4) == [1, 0.5, 0.25, 0.125]


def test_cosine_falls_from_the_whole_to_nearly_nothing() -> None:
    found = rates(Schedule(learning_rate=2.0, kind="cosine", rounds=10), 10)
    assert found == pytest.approx([1 + cos(pi * i / 10) for i in range(10)])
    assert found[0] == 2.0
    assert found == sorted(found, reverse=True)
    assert found[-1] > 0
    assert Schedule(learning_rate=2.0, kind="cosine", rounds=10).optimiser(99).learning_rate == 0


def test_the_rest_of_the_optimiser_stays() -> None:
    optimiser = Schedule(
        learning_rate=1.0, momentum=0.8, weight_decay=0.01, clip_norm=2.0, kind="exponential"
    ).optimiser(3)
    assert (optimiser.momentum, optimiser.weight_decay, optimiser.clip_norm) == (0.8, 0.01, 2.0)


def test_unknown_kind() -> None:
    with pytest.raises(SettingError, match="learning-rate-schedule = 'linear'"):
        Schedule(kind="linear")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tier_assignment", "x"),
        ("slice_at", "x"),
        ("tier_steps", (1,)),
        ("tiers", ()),
        ("fraction_train", 0.0),
        ("fraction_train", 1.5),
        ("fraction_evaluate", -1.0),
        ("quorum", 2.0),
    ],
)
def test_settings_name_what_is_wrong(key: str, value: object) -> None:
    with pytest.raises(SettingError, match=key.replace("_", "-")):
        Settings(**{key: value})  # type: ignore[arg-type]


def test_proportions_default_to_equal_shares() -> None:
    assert sum(Settings().proportions) == 1
    assert len(set(Settings().proportions)) == 1
    assert len(Settings(tiers=(Tier("x", Settings().tiers[0].rate),)).proportions) == 1
