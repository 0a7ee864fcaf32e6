"""Data that cannot be used as they are: an error for whoever has them, and a sentence for everybody else."""

from __future__ import annotations

from models.errors import SettingError


class DataError(SettingError):
    """What is wrong with somebody's data.

    Args:
        root: where they are.
        allowed: what would be right, with the names of files, rows and classes; stays with who has the data.
        told: the same without any name, which a device may tell the server.
    """

    def __init__(self, root: object, allowed: str, told: str) -> None:
        self.told = told
        super().__init__("data-root", str(root), allowed)
