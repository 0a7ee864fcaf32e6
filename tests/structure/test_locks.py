"""What pyproject.toml asks for is locked, at a version that it allows, with a hash: `make lock` was not forgotten."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def locked(name: str, least: int = 50) -> dict[str, str]:
    """Version by package; each has a hash."""
    text = (ROOT / "locks" / name).read_text(encoding="utf-8")
    pins = re.findall(r"^([a-z0-9._-]+)==([^\s;]+).*\\\n +--hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)
    assert len(pins) == len(re.findall(r"^[a-z0-9]", text, re.MULTILINE)) > least
    return dict(pins)


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("develop.txt", [*PROJECT["dependencies"], *EXTRAS["dev"]]),
        ("device.txt", PROJECT["dependencies"]),
    ],
)
def test_what_is_asked_for_is_locked(file: str, wanted: list[str]) -> None:
    pins = locked(file)
    for text in wanted:
        asked = Requirement(text)
        if asked.name == "torch":  # which build it is is the machine's choice
            assert "torch" not in pins
            continue
        assert asked.specifier.contains(pins[asked.name.lower()]), text


def test_a_device_has_what_was_tried_and_no_ray() -> None:
    everything, device = locked("develop.txt"), locked("device.txt")
    assert "ray" in everything
    assert "ray" not in device
    assert device.items() <= everything.items()


def test_what_builds_the_site_is_locked_and_trains_nothing() -> None:
    pins = locked("docs.txt", least=20)
    assert all(Requirement(text).specifier.contains(pins[Requirement(text).name]) for text in EXTRAS["docs"])
    assert not {"flwr", "torch", "ray", "numpy"} & set(pins)
