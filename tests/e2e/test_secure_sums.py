"""Secure aggregation over real SuperNodes: the model of the run in process, and a node that restarts in the middle."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from flotilla.deploy.deployment import Deployment
from flotilla.deploy.federation import prepare_federation
from flotilla.deploy.tls_keys import make_keys
from flotilla.superlink.run import run_on
from tests.e2e.test_federation import fingerprint, simulated
from tests.e2e.test_identity import rows

ROOT = Path(__file__).resolve().parents[2]
NODES, ROUNDS = 4, 3
CONFIG = (
    'method="fedavg" model="mlp" widths="16, 8" norm="none" tiers="a:1" local-epochs=1 evaluate-every=100 '
    f"num-clients={NODES} num-server-rounds={ROUNDS} secure-aggregation=true secure-threshold=2 min-cover=2"
)
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1200)]


def main(run: Path, keys: Path, restarting: bool) -> int:
    """Run the federation; with `restarting`, end node 1 after a round, as systemd would, and it is started again."""
    make_keys(keys, NODES)
    settings, made = prepare_federation(ROOT, [CONFIG], nodes=NODES, run_dir=run, resume=None), list[Deployment]()

    def make(*arguments: Any) -> Deployment:
        made.append(Deployment(*arguments, tiers=("a",) * NODES, keys=keys))
        return made[0]

    def restart() -> None:
        while not rows(run):
            time.sleep(0.1)
        made[0].nodes[1].terminate()

    if restarting:
        threading.Thread(target=restart, daemon=True).start()
    return run_on(make, settings, {}, verbose=False)


@pytest.mark.parametrize("restarting", [False, True], ids=["all stay", "one restarts"])
def test_a_federation_learns_sums_only(tmp_path: Path, restarting: bool) -> None:
    run = tmp_path / "run"
    command = [sys.executable, __file__, str(run), str(tmp_path / "keys"), str(int(restarting))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = rows(run)
    for row in found:
        print(row["round"], row["accepted"], row["seconds"], row["secure"], [one["reason"] for one in row["rejected"]])
    assert [row["abandoned"] for row in found] == [False] * ROUNDS
    if restarting:
        assert all(row["accepted"] >= NODES - 1 for row in found)
    else:
        assert [(row["accepted"], row["rejected"]) for row in found] == [(NODES, [])] * ROUNDS
        simulated(tmp_path / "simulated", CONFIG)
        assert fingerprint(run) == fingerprint(tmp_path / "simulated")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "1"))
