"""Adapters over real SuperNodes: a base per node, another one refused and named, resumed, the simulation's model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from flwr.app import Context, Message
from safetensors.torch import load_file, save_file

from client_app.app import app
from flotilla.deploy.deployment import Deployment
from flotilla.deploy.federation import prepare_federation
from flotilla.deploy.tls_keys import make_keys
from flotilla.local.grid import LocalGrid, contexts
from flotilla.superlink.run import run_on
from models import base_store
from models.networks.bases import first_state
from models.networks.build import layout, without_adapter
from protocol import HELLO
from server_app.config import resolve
from server_app.run import Run
from tests.e2e.test_identity import rows

ROOT = Path(__file__).resolve().parents[2]
NODES, ROUNDS, ODD = 4, 2, 2  # the odd one has another base
TIERS = ("a", "b", "a", "c")
CONFIG = (
    'model="mlp" widths="24, 12" norm="none" adapter="lora:4" tiers="a:4, b:2, c:1" method="{method}" local-epochs=1 '
    f'learning-rate-schedule="constant" evaluate-every=2 num-clients={NODES} start="{{start}}"'
)
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1200)]


def base_of(folder: Path, node: int) -> Path:
    """The file with a node's own base."""
    return folder / f"node-{node}" / "base.safetensors"


class OnBases(Deployment):
    """Every node is told where its own base is."""

    bases: Path

    def _start(self, command: list[str], log: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        for node in range(NODES):
            command = [
                f'{word} base="{base_of(self.bases, node)}"' if word.startswith(f"partition-id={node} ") else word
                for word in command
            ]
        return super()._start(command, log, env)


def settings_of(folder: Path, method: str, rounds: int, run: Path, resume: Path | None) -> Any:
    config = CONFIG.format(method=method, start=folder / "start.safetensors") + f" num-server-rounds={rounds}"
    return prepare_federation(ROOT, [config], nodes=NODES, run_dir=None if resume else run, resume=resume)


def main(folder: Path, method: str) -> int:
    """A round over SuperNodes, and the second one by a run that resumes it with new ones."""
    make_keys(folder / "keys", NODES)

    def make(*arguments: Any) -> OnBases:
        made = OnBases(*arguments, tiers=TIERS, keys=folder / "keys")
        made.bases = folder
        return made

    run = folder / "run"
    for rounds in range(1, ROUNDS + 1):
        settings = settings_of(folder, method, rounds, run, run if rounds > 1 else None)
        if code := run_on(make, settings, {}, verbose=False):
            return code
    return 0


def simulated(folder: Path, method: str) -> Path:
    """The uninterrupted run in one process, in which every node reads its base by itself."""
    settings = settings_of(folder, method, ROUNDS, folder / "simulated", None)
    config = resolve({}, overrides=dict(settings.config))
    nodes = contexts({**config.flat, "client-state": str(folder / "clients")}, NODES)
    for node, (context, tier) in enumerate(zip(nodes.values(), TIERS, strict=True)):
        context.node_config |= {"base": str(base_of(folder, node)), "tier": tier}

    def client(message: Message, context: Context) -> Message:
        if message.metadata.message_type.endswith(HELLO.removeprefix("query.")):
            base_store._known.clear()  # it is a machine of its own
        return app(message, context)

    with patch("server_app.run.write_report"):
        run = Run(config, LocalGrid(client, nodes), write=lambda line: None)  # type: ignore[arg-type]
        run.execute()
    return run.folder.path


@pytest.mark.parametrize("method", ["flexlora", "flora"])
def test_a_base_per_node(tmp_path: Path, method: str) -> None:
    network = resolve(
        {}, overrides={"model": "mlp", "widths": "24, 12", "norm": "none", "adapter": "lora:4", "tiers": "a:4"}
    ).network
    whole = first_state(without_adapter(network), 5)
    save_file(whole, tmp_path / "start.safetensors")
    for node in range(NODES):
        base_of(tmp_path, node).parent.mkdir()
        save_file({n: t + (node == ODD) for n, t in whole.items()}, base_of(tmp_path, node))
    command = [sys.executable, __file__, str(tmp_path), method]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "run"
    found = rows(run)
    assert [(row["round"], row["accepted"]) for row in found] == [(1, NODES - 1), (2, NODES - 1)]
    refused = [one for row in found for one in row["rejected"]]
    assert {one["node"] for one in refused} == {ODD}
    assert all("its base is" in one["reason"] and "the run's is" in one["reason"] for one in refused)
    kept = load_file(run / "base.safetensors")
    assert all(bool((tensor == whole[name]).all()) for name, tensor in kept.items())
    assert not set(kept) & set(load_file(run / "model.safetensors"))
    assert set(layout(network).pairs)
    hashes = [
        sha256((one / "model.safetensors").read_bytes()).hexdigest() for one in (run, simulated(tmp_path, method))
    ]
    assert hashes[0] == hashes[1]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
