"""Who reaches a SuperLink's control side: ordinary calls of `flwr`, made through two addresses, and what each says.

The calls are those that matter: list the runs, list the nodes, register a node, start a run. Where one works, what it
did is taken back: the node, whose key is made here and goes with this process, is unregistered, and the run, of an app
that does nothing, is stopped.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from flotilla.deploy.registry import write_connection
from flotilla.superlink.superlink import script

CALLS = ("flwr ls", "flwr supernode list", "flwr supernode register", "flwr run")
_PATIENCE = 120.0  # seconds for one call
_FORBIDDEN = "403 Forbidden"  # the proxy's answer, as flwr says it
_PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "access"
version = "0.1.0"
license = { file = "LICENSE" }
dependencies = ["flwr[simulation]>=1.41.0,<2.0"]
[tool.flwr.app]
publisher = "flotilla"
fab-format-version = 1
flwr-version-target = "1.41.0"
[tool.flwr.app.components]
serverapp = "idle:app"
clientapp = "idle:client"
[tool.flwr.app.config]
"""
_IDLE = """\
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

app = ServerApp()
client = ClientApp()


@app.main()
def main(grid, context):
    pass
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call came to.

    Attributes:
        works: whether it did what it is for.
        refused: whether the proxy refused it; neither: something else is wrong.
        said: flwr's last line.
    """

    works: bool
    refused: bool
    said: str

    def text(self) -> str:
        """As a person reads it."""
        return "works" if self.works else "refused (403)" if self.refused else f"failed: {self.said}"


def try_calls(address: str, root: Path | None) -> dict[str, Answer]:
    """Make each of the calls through an address.

    Args:
        address: host and port.
        root: certificate that vouches for it; None: without TLS.

    Returns:
        What each came to, by call, in the order of `CALLS`.
    """
    with TemporaryDirectory(prefix="flotilla-access-") as made:
        folder = Path(made)
        write_connection(folder / "flwr", "there", address, root)
        (folder / "app").mkdir()
        for name, text in (("pyproject.toml", _PYPROJECT), ("idle.py", _IDLE), ("LICENSE", "none\n")):
            (folder / "app" / name).write_text(text, encoding="utf-8")
        (folder / "node.pub").write_bytes(_new_public_key())
        env = os.environ | {
            "FLWR_HOME": str(folder / "flwr"),
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_TELEMETRY_ENABLED": "0",
        }
        register = _flwr(env, "supernode", "register", str(folder / "node.pub"), "there", "--name", "access")
        run = _flwr(env, "run", str(folder / "app"), "there")
        lists = _flwr(env, "ls", "there"), _flwr(env, "supernode", "list", "there")
        if "node-id" in register:
            _flwr(env, "supernode", "unregister", str(register["node-id"]), "there")
        if "run-id" in run:
            _flwr(env, "stop", str(run["run-id"]), "there")  # it may have ended already
    return {call: _answer(found) for call, found in zip(CALLS, (*lists, register, run), strict=True)}


def _flwr(env: Mapping[str, str], *words: str) -> dict[str, object]:
    """What flwr answers, which exits with 0 also where it was refused."""
    command = [script("flwr"), *words, "--format", "json"]
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return {"success": False, "error-message": f"no answer within {_PATIENCE:.0f} s"}
    try:
        found = json.loads(done.stdout)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        return {"success": False, "error-message": done.stdout + done.stderr}
    return found


def _answer(found: Mapping[str, object]) -> Answer:
    said = str(found.get("error-message", ""))
    lines = [line for line in said.splitlines() if line.strip() and "developer.mozilla.org" not in line]
    return Answer(found.get("success") is True, _FORBIDDEN in said, lines[-1].strip() if lines else "")


def _new_public_key() -> bytes:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH) + b"\n"
