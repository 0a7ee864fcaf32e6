"""Trackers get what TensorBoard gets, once, and break no run; those that are installed are tried as they are."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import pytest

from models.errors import SettingError
from server_app.folder import tracking
from server_app.folder.tracking import TRACKERS, Tracking, check_tracker

ROW = {"round": 3, "accuracy": 0.5, "loss": float("nan"), "tiers": {"a": {"accuracy": 0.25}}, "selected": [1, 2]}
SAID = {"accuracy": 0.5, "tiers/a/accuracy": 0.25, "selected": 2.0}


class Noted:
    def __init__(self, folder: Path, run: str, config: Mapping[str, object]) -> None:
        self.made, self.rounds, self.closed = (folder, run, dict(config)), list[tuple[int, Mapping[str, float]]](), 0

    def log(self, number: int, values: Mapping[str, float]) -> None:
        if number == 5:
            raise RuntimeError("full")
        self.rounds.append((number, values))

    def close(self) -> None:
        self.closed += 1


def test_a_tracker_gets_the_rounds_and_rests_once_it_broke(tmp_path: Path) -> None:
    made, lines = list[Noted](), list[str]()

    def make(*given: object) -> Noted:
        made.append(Noted(*given))  # type: ignore[arg-type]
        return made[-1]

    with patch.dict(tracking._SINKS, mlflow=make):
        tracked = Tracking(tmp_path, "id", tracker="mlflow", config={"seed": 1}, warn=lines.append)
        assert made == []  # nothing is imported before there is something to say
        for number in (3, 4, 5, 6):
            tracked.write({**ROW, "round": number})
        tracked.close()
        tracked.close()
    (one,) = made
    assert one.made == (tmp_path, "id", {"seed": 1})
    assert one.rounds == [(3, SAID), (4, SAID)]
    assert one.closed == 1
    assert lines == ["nothing more for mlflow: RuntimeError: full"]


def test_without_a_tracker_there_are_only_events(tmp_path: Path) -> None:
    tracked = Tracking(tmp_path, "id", tracker="none", config={}, warn=pytest.fail)
    tracked.write(ROW)
    tracked.close()
    assert [path.name for path in tmp_path.iterdir()] == ["events"]


def test_what_is_missing_is_named_with_its_extra() -> None:
    with (
        patch.object(tracking, "find_spec", return_value=None),
        pytest.raises(SettingError, match=r"flotilla\[wandb\]"),
    ):
        check_tracker("wandb")
    check_tracker("none")


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACKERS[1:])
def test_the_trackers_themselves(tmp_path: Path, name: str) -> None:
    """What was written stands in the folder; a second call goes on with the same run."""
    if find_spec(name) is None:
        pytest.skip(f"no {name}: pip install 'flotilla[{name}]'")
    lines = list[str]()
    for rounds in ((1, 2), (3,)):
        tracked = Tracking(tmp_path, "0123456789abcdef", tracker=name, config={"seed": 1}, warn=lines.append)
        for number in rounds:
            tracked.write({**ROW, "round": number})
        tracked.close()
    assert lines == []
    assert any((tmp_path / {"mlflow": "mlruns"}.get(name, name)).rglob("*"))
    if name == "mlflow":
        (file,) = tmp_path.glob("mlruns/*/*/metrics/tiers/a/accuracy")
        assert [line.split()[1:] for line in file.read_text().splitlines()] == [["0.25", str(n)] for n in (1, 2, 3)]
