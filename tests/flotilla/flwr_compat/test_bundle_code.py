"""Bytecode of an unpacked bundle is that of its originals, where these are the same, and Python takes it as its own."""

from __future__ import annotations

import os
import py_compile
import subprocess
import sys
from importlib.util import cache_from_source
from pathlib import Path

import pytest

from flotilla.flwr_compat.bundle import build_bundle
from flotilla.flwr_compat.bundle_code import keep_bytecode, unpack
from tests.flotilla.flwr_compat.test_behaviour import APP

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # in flwr's own builder


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flwr"))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    folder = tmp_path / "app"
    (folder / "lab").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(APP)
    (folder / "LICENSE").write_text("free\n")
    (folder / "theirs.py").write_text("app = 1\n")
    (folder / "lab" / "__init__.py").write_text("value = 2\n")
    return folder


def bundled(app: Path) -> Path:
    file = app.parent / "app.fab"
    file.write_bytes(build_bundle(app, {}))
    return file


def cache(file: Path) -> Path:
    return Path(cache_from_source(str(file)))


def imported(folder: Path, module: str, value: str) -> tuple[str, bool]:
    """What an attribute of a module is, and whether the module came from its bytecode."""
    code = f"import {module}; print({module}.{value})"
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-v", "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=600
    )
    file = folder / module.replace(".", "/")
    source = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    return done.stdout.strip(), f"matches {source}" in done.stderr


def test_bytecode_is_lent(app: Path) -> None:
    py_compile.compile(str(app / "theirs.py"))
    folder = unpack(bundled(app), [app.parent / "nowhere", app])
    assert imported(folder, "theirs", "app") == ("1", True)
    assert imported(folder, "lab", "value") == ("2", False)  # nobody had compiled it


def test_bytecode_of_another_text_is_not_lent(app: Path) -> None:
    bundle = bundled(app)
    (app / "theirs.py").write_text("app = 3\n")
    py_compile.compile(str(app / "theirs.py"))
    assert imported(unpack(bundle, [app]), "theirs", "app") == ("1", False)


def test_bytecode_that_is_out_of_date_is_not_taken(app: Path) -> None:
    py_compile.compile(str(app / "theirs.py"))
    (app / "theirs.py").write_text("app = 10\n")
    assert imported(unpack(bundled(app), [app]), "theirs", "app") == ("10", False)


def test_what_a_run_has_compiled_is_kept(app: Path) -> None:
    folder = unpack(bundled(app), [app])
    py_compile.compile(str(folder / "lab" / "__init__.py"))
    keep_bytecode(folder, [app])
    assert not cache(app / "theirs.py").exists()
    assert imported(app, "lab", "value") == ("2", True)


def test_bytecode_of_another_text_is_not_kept(app: Path) -> None:
    folder = unpack(bundled(app), [app])
    py_compile.compile(str(folder / "theirs.py"))
    (app / "theirs.py").write_text("app = 10\n")
    keep_bytecode(folder, [app])
    assert not cache(app / "theirs.py").exists()


def test_who_wants_no_bytecode_gets_none(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    py_compile.compile(str(app / "theirs.py"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    folder = unpack(bundled(app), [app])
    assert not cache(folder / "theirs.py").exists()


def test_a_folder_that_cannot_be_written_is_no_error(app: Path) -> None:
    (app / "__pycache__").write_text("in the way\n")
    folder = unpack(bundled(app), [app])
    py_compile.compile(str(folder / "theirs.py"))
    keep_bytecode(folder, [app])
    assert (app / "__pycache__").read_text() == "in the way\n"
