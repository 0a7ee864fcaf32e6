"""The edge guide's commands and units fit together; `make test-edge` really runs them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs" / "edge.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh (server|device)\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
UNITS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "edge").glob("*.service")}


def test_every_block_of_commands_says_where_it_runs() -> None:
    fences = re.findall(r"^```(.*)$", GUIDE, re.MULTILINE)[::2]
    assert set(fences) <= {"sh server", "sh device", "text"}
    assert [where for where, _ in BLOCKS if where == "server"]
    assert not re.search(r"\n\n    \S", GUIDE), "an indented block, which edge/try.sh does not run"


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_block_is_bash(number: int) -> None:
    done = subprocess.run(["bash", "-n"], input=BLOCKS[number][1], text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_units_start_what_the_guide_installs() -> None:
    """The folder of the bundle, its environment, the certificate and the device's own keys."""
    device = "".join(text for where, text in BLOCKS if where == "device")
    assert "tar -xf /tmp/flotilla.tar -C /opt" in device
    assert "python3.11 -m venv /opt/flotilla/.venv" in device
    assert len(UNITS) == 2
    for unit in UNITS.values():
        for path in re.findall(r"/opt/flotilla/(\S+)", unit):
            assert path.startswith(".venv/bin/") or (ROOT / path).is_file(), path
        for path in re.findall(r"/etc/flotilla/(ca\.crt|own|node\.env)", unit):
            assert f"/etc/flotilla/{path}" in device
    assert "useradd --system --home-dir /var/lib/flotilla flotilla\n" in device
    assert "useradd --system --home-dir /var/lib/flotilla-app flotilla-app\n" in device


def test_who_runs_a_runs_code_owns_no_key() -> None:
    """`edge/try.sh` tries it; here, that no later unit forgets it."""
    app = UNITS["flotilla-clientapp.service"].splitlines()
    node = UNITS["flotilla-supernode.service"].splitlines()
    assert "User=flotilla-app" in app
    assert "User=flotilla" in node
    assert not any("/etc/flotilla/own" in line for line in app if not line.startswith("InaccessiblePaths="))
    assert {"IPAddressDeny=any", "IPAddressAllow=127.0.0.1", "NoNewPrivileges=yes"} <= set(app)
    assert any(line.startswith("InaccessiblePaths=/etc/flotilla/own ") for line in app)
    for unit in (app, node):
        assert any(line.startswith("MemoryMax=") for line in unit)
        assert any(line.startswith("TasksMax=") for line in unit)
    device = "".join(text for where, text in BLOCKS if where == "device")
    assert "chown -R flotilla /etc/flotilla/own && chmod 700 /etc/flotilla/own" in device


def test_the_server_listens_to_this_machine_only() -> None:
    server = "".join(text for where, text in BLOCKS if where == "server")
    assert re.findall(r"flower-superlink --host (\S+)", server) == ["127.0.0.1"]
    assert "haproxy -db -f edge/proxy.cfg" in server
    assert ":8443" in (ROOT / "edge" / "node.env").read_text(encoding="utf-8")


def test_the_node_file_is_the_one_that_the_guide_writes() -> None:
    written = re.search(r"cat > /etc/flotilla/node\.env <<'end'\n(.*?)^end$", GUIDE, re.MULTILINE | re.DOTALL)
    assert written is not None
    kept = (ROOT / "edge" / "node.env").read_text(encoding="utf-8").splitlines()
    assert written[1].splitlines() == [line for line in kept if not line.startswith("#")]
