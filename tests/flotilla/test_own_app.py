"""Which app a command is about, and names below `flotilla` in a checkout."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from flotilla.own_app import chosen_app, code_beside, own_app, runs_our_server

ROOT = Path(__file__).parents[2]


def an_app(folder: Path, server: str) -> Path:
    folder.mkdir()
    text = f'[project]\nname = "x"\n[tool.flwr.app.components]\nserverapp = "{server}"\nclientapp = "c:app"\n'
    (folder / "pyproject.toml").write_text(text)
    return folder


def test_in_a_checkout_our_own_app_is_the_repository() -> None:
    assert own_app() == ROOT
    assert runs_our_server(ROOT)
    assert code_beside(ROOT) == {}


def test_an_app_is_the_given_one_else_the_one_here_else_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert chosen_app(None) == ROOT
    assert chosen_app(Path("x")) == tmp_path / "x"
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'no-flower-app'\n")
    assert chosen_app(None) == ROOT
    (tmp_path / "pyproject.toml").write_text("[tool.flwr.app]\npublisher = 'me'\n")
    assert chosen_app(None) == tmp_path


@pytest.mark.parametrize(
    ("server", "ours"),
    [("server_app.app:app", False), ("flotilla.server_app.app:app", True), ("their.server:app", False)],
)
def test_whose_server_an_app_runs(tmp_path: Path, server: str, ours: bool) -> None:
    assert runs_our_server(an_app(tmp_path / "app", server)) is ours
    assert not runs_our_server(tmp_path)


@pytest.mark.parametrize("name", ["strategies", "models.networks.spec", "protocol.codecs.frame", "data.vision"])
def test_both_names_are_one_module(name: str) -> None:
    module = importlib.import_module(f"flotilla.{name}")
    assert module is importlib.import_module(name)
    assert module.__name__ == name
    assert module.__spec__ is not None
    assert module.__spec__.name == name
    assert sys.modules[f"flotilla.{name}"] is module


@pytest.mark.parametrize("name", ["nothing", "models.nothing", "benchmarks", "tests"])
def test_other_names_do_not_exist(name: str) -> None:
    with pytest.raises(ModuleNotFoundError, match=f"flotilla.{name}"):
        importlib.import_module(f"flotilla.{name}")
