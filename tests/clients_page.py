"""The code of docs/clients.md, and the Flower app that it is when it stands in a folder."""

from __future__ import annotations

import re
from pathlib import Path

_PAGE = Path(__file__).parents[1] / "docs/clients.md"
# File → its text, as the page has it.
BLOCKS = dict(re.findall(r"```python\n# (my_app/\w+\.py)\n(.*?)```", _PAGE.read_text(), re.S))
# What every Flower app has beside its code; the page leaves it to Flower's documentation.
_PROJECT = """
[project]
name = "my-app"
version = "0.1.0"
license = { file = "LICENSE" }
dependencies = ["flwr[simulation]>=1.41.0"]
[tool.flwr.app]
publisher = "someone"
fab-format-version = 1
flwr-version-target = "1.41.0"
[tool.flwr.app.components]
serverapp = "my_app.server_app:app"
clientapp = "my_app.client_app:app"
[tool.flwr.app.config]
rounds = 2
num-clients = 4
"""


def write_app(folder: Path) -> Path:
    """Write the page's app into a folder; the folder."""
    for name, text in BLOCKS.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(text)
    (folder / "my_app/__init__.py").touch()
    (folder / "LICENSE").write_text("theirs")
    (folder / "pyproject.toml").write_text(_PROJECT)
    return folder
