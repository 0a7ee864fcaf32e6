"""An environment in which nothing is installed but a wheel, what the wheel requires, and what that requires.

The required distributions come from the environment that runs the tests, file by file as hard links, so this takes
seconds and no network; the project itself does not, nor does anything that only its development needs. Then pip
installs the wheel without an index, and so checks that what its metadata require is there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_OURS = "flotilla"


class Environment:
    """A fresh virtual environment.

    Args:
        folder: where to; made anew. On one file system with the running environment, else files are copied.

    Attributes:
        packages: the folder of what is installed.
    """

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        self._bin = folder / "bin"
        self.packages = next((folder / "lib").iterdir()) / "site-packages"
        self._there: set[str] = set()

    @property
    def python(self) -> str:
        """Its interpreter."""
        return str(self._bin / "python")

    def command(self, name: str) -> str:
        """Path of one of its commands."""
        return str(self._bin / name)

    def install(self, wheel: Path) -> None:
        """Install a wheel and what it requires."""
        self.add(_required_by(wheel))
        self._pip("install", "--no-index", str(wheel))

    def remove(self, name: str) -> None:
        """Uninstall a distribution."""
        self._pip("uninstall", "--yes", name)

    def _pip(self, command: str, *words: str) -> None:
        pip = [sys.executable, "-m", "pip", "--python", self.python, "--disable-pip-version-check", command, "--quiet"]
        subprocess.run([*pip, *words], check=True)

    def add(self, requirements: Iterable[Requirement]) -> None:
        """Add distributions of the running environment, with all that they require."""
        for found in _closure(requirements):
            if found.name not in self._there:
                self._there.add(found.name)
                for file in found.files or []:
                    self._link(Path(str(found.locate_file(file))).resolve(), str(file))

    def _link(self, source: Path, name: str) -> None:
        script = name.startswith("../") and Path(name).parent.name == "bin"
        target = self._bin / Path(name).name if script else self.packages / name
        if not source.is_file() or target.exists() or (name.startswith("../") and not script):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        text = source.read_bytes() if script else b""
        if text.startswith(b"#!") and b"python" in text.partition(b"\n")[0]:
            target.write_bytes(f"#!{self.python}\n".encode() + text.partition(b"\n")[2])
            target.chmod(0o755)
            return
        try:
            os.link(source, target)
        except OSError:  # another file system
            shutil.copy2(source, target)


def _required_by(wheel: Path) -> list[Requirement]:
    from zipfile import ZipFile

    with ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        lines = archive.read(name).decode().partition("\n\n")[0].splitlines()
    found = [Requirement(line.partition(": ")[2]) for line in lines if line.startswith("Requires-Dist: ")]
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]


def _closure(requirements: Iterable[Requirement]) -> Iterator[Distribution]:
    """Find what satisfies the requirements, then what these require in turn, each once for every set of extras."""
    waiting, seen = list(requirements), set[tuple[str, frozenset[str]]]()
    while waiting:
        one = waiting.pop()
        key = canonicalize_name(one.name), frozenset(one.extras)
        if key in seen or key[0] == _OURS:
            continue
        seen.add(key)
        found = distribution(one.name)
        yield found
        for text in found.requires or []:
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *one.extras)):
                waiting.append(needed)
