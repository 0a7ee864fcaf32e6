"""The door: what can be set, what it means, and a checked configuration of a run.

`keys()` lists every key with type, default, what is allowed, words, section and who reads it; `resolve` checks a
configuration. `python -m server_app.config --write` writes the defaults into pyproject.toml and the tables into
docs/configuration.md.
"""

from server_app.config.catalogue import Key, advanced, defaults, keys, moved
from server_app.config.resolve import RunConfig, resolve

__all__ = ["Key", "RunConfig", "advanced", "defaults", "keys", "moved", "resolve"]
