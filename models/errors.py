"""The error a wrong setting gets: one line that names the key, the value and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable


def refuse(rows: Iterable[tuple[str, object, bool, str]]) -> None:
    """Raise for the first setting that does not fit.

    Args:
        rows: key, value, whether it fits, and what is allowed.

    Raises:
        SettingError: says these.
    """
    for key, value, fits, allowed in rows:
        if not fits:
            raise SettingError(key, value, allowed)


class SettingError(ValueError):
    """A setting that cannot be used.

    Args:
        key: the setting's name as the user wrote it, such as "tier-proportions".
        value: what was given.
        allowed: a phrase that says what is allowed, or the allowed values themselves.
    """

    def __init__(self, key: str, value: object, allowed: str | Iterable[str]) -> None:
        self.key, self.value = key, value
        self.allowed = allowed if isinstance(allowed, str) else "one of " + ", ".join(allowed)
        super().__init__(f"{key} = {value!r}: allowed is {self.allowed}")
