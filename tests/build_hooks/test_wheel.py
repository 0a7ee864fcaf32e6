"""What a wheel of the project holds: one name to import, an app, the settings, and nothing else."""

from __future__ import annotations

import tomllib
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import pytest
from hatchling.builders.wheel import WheelBuilder

from build_hooks import wheel

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def names_and_texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Everything in a wheel that has just been built, by name."""
    folder = tmp_path_factory.mktemp("dist")
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    with ZipFile(path) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def test_gives_one_name_to_import(names_and_texts: dict[str, str]) -> None:
    tops = {PurePosixPath(name).parts[0] for name in names_and_texts}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"flotilla"}
    assert len(tops) == 2


@pytest.mark.parametrize("package", [*wheel.MOVED, "flotilla"])
def test_has_every_source_once(names_and_texts: dict[str, str], package: str) -> None:
    parent = "" if package == "flotilla" else "flotilla/"
    expected = {f"{parent}{file.relative_to(ROOT).as_posix()}" for file in wheel.sources(ROOT, package)}
    expected.discard("flotilla/_checkout.py")  # which stands for what the wheel has
    assert expected
    assert expected <= names_and_texts.keys()
    assert "flotilla/_checkout.py" not in names_and_texts


def test_has_what_else_an_installed_package_needs(names_and_texts: dict[str, str]) -> None:
    assert {"flotilla/py.typed", "flotilla/strategies/virtual/mixed.toml"} <= names_and_texts.keys()
    (metadata,) = [text for name, text in names_and_texts.items() if name.endswith(".dist-info/METADATA")]
    assert "Provides-Extra: privacy" in metadata
    assert "Requires-Python: <3.12,>=3.11" in metadata
    assert "# Flotilla" in metadata  # the README
    assert any(".dist-info/licenses/LICENSE" in name for name in names_and_texts)
    (commands,) = [text for name, text in names_and_texts.items() if name.endswith("entry_points.txt")]
    assert "flotilla = flotilla.cli:main" in commands


def test_has_an_app_with_the_same_settings(names_and_texts: dict[str, str]) -> None:
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())
    app = tomllib.loads(names_and_texts["flotilla/app_folder/pyproject.toml"])
    assert app["tool"]["flwr"]["app"]["config"] == ours["tool"]["flwr"]["app"]["config"]
    assert app["project"]["version"] == ours["project"]["version"]
    assert app["tool"]["flwr"]["app"]["components"] == {
        "serverapp": "flotilla.server_app.app:app",
        "clientapp": "flotilla.client_app.app:app",
    }
    assert "flotilla/app_folder/LICENSE" in names_and_texts


def test_two_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("flotilla/models.py", "models/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for package in wheel.MOVED:
        (tmp_path / package).mkdir(exist_ok=True)
    with pytest.raises(ValueError, match=r"flotilla/models is there already"):
        wheel.lay_out(tmp_path, tmp_path / "out" / "flotilla")
