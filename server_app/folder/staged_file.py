"""A file that is written in two steps around something else: staged before it, given its name after.

What is killed in between leaves both the old file and the staged one; whoever knows the hash of the right one picks it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from server_app.folder.files import sync_folder
from server_app.folder.tensor_file import write_hashed


class StagedFile:
    """One file of a folder.

    Args:
        path: of the file.

    Attributes:
        path: see above.
        sha256: of the file, as far as this process knows; "" for no file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._staged = path.with_name(f".{path.name}")
        self._staged_sha256 = ""
        self.sha256 = ""

    def stage(self, pieces: Iterable[bytes | memoryview], *, sync: bool) -> str:
        """Write the new file beside the old one and return its SHA-256.

        Raises:
            OSError: no room.
        """
        _, self._staged_sha256 = write_hashed(self._staged, pieces, sync=sync)
        return self._staged_sha256

    def commit(self) -> None:
        """Let what was staged be the file."""
        self._staged.replace(self.path)
        self.sha256 = self._staged_sha256
        sync_folder(self.path.parent)

    def discard(self) -> None:
        """Forget what was staged."""
        self._staged.unlink(missing_ok=True)

    def remove(self) -> None:
        """No file."""
        self.discard()
        self.path.unlink(missing_ok=True)
        self.sha256 = ""

    def holds(self, sha256: str) -> str:
        """Where the file with this hash is: "there", "staged", or "" if it is neither of the two."""
        if sha256_of(self.path) == sha256:
            return "there"
        return "staged" if sha256_of(self._staged) == sha256 else ""

    def take(self, where: str, sha256: str) -> None:
        """Let the file that `holds` found be the one."""
        if where == "staged":
            self._staged_sha256 = sha256
            self.commit()
        else:
            self.discard()
            self.sha256 = sha256


def sha256_of(file: Path) -> str:
    """Hash of a file; nothing where there is none."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        return ""
