"""Real SuperNodes with registered keys: one says another's id, one comes back with another tier."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from flotilla.deploy.deployment import Deployment
from flotilla.deploy.federation import prepare_federation
from flotilla.deploy.tls_keys import make_keys
from flotilla.superlink.run import run_on

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 6
CONFIG = (
    f'model="mlp" widths="16, 8" tiers="a:1, b:1/2" num-clients=3 local-epochs=1 num-server-rounds={ROUNDS} '
    'evaluate-every=100 node-wait=60.0 tier-assignment="node"'
)
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1200)]


class Lying(Deployment):
    """Node 2 has its own key and says that it is node 0."""

    def _start(self, command: list[str], log: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        said = [word.replace("partition-id=2 ", "partition-id=0 ") for word in command]
        return super()._start(said, log, env)

    def restart_in_tier(self, node: int, tier: str) -> None:
        """End a SuperNode as systemd would; what starts it again gives it this tier."""
        self._tiers = tuple(tier if i == node else old for i, old in enumerate(self._tiers))
        self.nodes[node].terminate()


def rows(run: Path) -> list[dict[str, Any]]:
    file = run / "metrics.jsonl"
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def main(run: Path, keys: Path) -> int:
    """Run the federation; restart node 1 in tier b after two rounds."""
    make_keys(keys, 3)
    settings, made = prepare_federation(ROOT, [CONFIG], nodes=3, run_dir=run, resume=None), list[Lying]()

    def make(*arguments: Any) -> Lying:
        made.append(Lying(*arguments, tiers=("a", "a", "a"), keys=keys))
        return made[0]

    def restart() -> None:
        while len(rows(run)) < 2:
            time.sleep(0.1)
        made[0].restart_in_tier(1, "b")

    threading.Thread(target=restart, daemon=True).start()
    return run_on(make, settings, {}, verbose=False)


def test_a_key_says_its_own_id_and_a_node_that_comes_back_its_new_tier(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, __file__, str(run), str(tmp_path / "keys")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = rows(run)
    for row in found:
        print(row["round"], row["selected_tiers"], row["accepted"], [one["reason"] for one in row["rejected"]])
    assert len(found) == ROUNDS
    assert all(set(row["selected"]) <= {0, 1} for row in found)
    liar = [one for row in found for one in row["rejected"] if one["node"] == 2]
    assert "registered as 'node-2', and it says it is 0" in liar[0]["reason"]
    assert found[0]["selected_tiers"] == {"a": 2}
    assert found[-1]["selected_tiers"] == {"a": 1, "b": 1}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
