"""What a device reads of its configuration, and what it says of what it does not know."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from client_app.device import settings_of
from client_app.handlers import answer_train
from data import DataSettings
from models.algebra.submodel import flatten
from models.errors import SettingError
from protocol import Objective, TrainRequest, WireError, encode
from tests.client_app.test_model_cache import SPECS, device, request, state_of


def test_a_configuration_is_read_once_and_another_one_anew() -> None:
    first = settings_of(device(0, seed=41))
    with patch.object(DataSettings, "from_config", side_effect=AssertionError("read again")):
        assert settings_of(device(3, seed=41)) is first  # another message, another node: an equal configuration
    assert settings_of(device(0, seed=42)).seed == 42
    assert settings_of(device(0, seed=41)) == first


def test_what_a_folder_of_the_device_s_own_or_of_the_environment_is_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = settings_of(device(seed=43))
    own = device(seed=43)
    own.node_config["data-root"] = str(tmp_path / "own")
    assert settings_of(own).data_root == str(tmp_path / "own")
    monkeypatch.setenv("FLOTILLA_DATA", str(tmp_path / "everybody"))
    assert settings_of(device(seed=43)).data_root == str(tmp_path / "everybody")
    monkeypatch.undo()
    assert settings_of(device(seed=43)) == common


def test_a_configuration_that_is_changed_in_place_is_read_again() -> None:
    context = device(seed=44)
    assert settings_of(context).seed == 44
    context.run_config["seed"] = 45
    assert settings_of(context).seed == 45
    context.run_config["seed"] = -1
    with pytest.raises(SettingError, match="seed"):
        settings_of(context)


@pytest.mark.parametrize(
    ("asked", "unknown", "looked"),
    [
        (request(replace(SPECS["mlp"], name="squeeze")), "model = 'squeeze'", "flotilla.networks"),
        (request(SPECS["mlp"], objective=Objective("hinge")), "objective = 'hinge'", "flotilla.objectives"),
        (request(SPECS["mlp"], codec="zstd"), "codec 'zstd'", "flotilla.codecs"),
    ],
)
def test_what_is_unknown_is_named_with_where_it_was_looked_for(asked: TrainRequest, unknown: str, looked: str) -> None:
    with pytest.raises(WireError) as caught:
        answer_train(asked, encode(flatten(state_of(SPECS["mlp"]))), device())
    line = str(caught.value)
    assert unknown in line
    assert looked in line
    assert "built in" in line
    assert "does not fit" not in line
    assert "\n" not in line
