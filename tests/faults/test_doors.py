"""Who comes in, what a device lets out, and what its files may do: doors that are closed as the files say they are.

That they hold is tried where there are an engine, a proxy and systemd (`make test-compose`, `make test-edge`,
`tests/flotilla/deploy`); here, that no later change of a file opens one.
"""

from __future__ import annotations

import os
import re
from functools import partial, wraps
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, message_size_mod
from PIL import Image

from client_app.mods import refuse_idle
from data import DataSettings, load
from data.picture import MOST_PIXELS
from flotilla.local.grid import contexts
from tests.support import Player, address_of, keys_of

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = {name: one for name, one in COMPOSE["services"].items() if "profiles" not in one}


def test_nobody_outside_reaches_the_control_side() -> None:
    """What is published: the SuperLink to its own host, unless told otherwise, and the proxy."""
    published = {name: one["ports"] for name, one in SERVICES.items() if "ports" in one}
    assert sorted(published) == ["proxy", "superlink"]
    assert published["superlink"] == ["${FLOTILLA_ADDRESS:-127.0.0.1:8000}:8000"]
    nodes = [one for name, one in SERVICES.items() if name.startswith(("supernode", "clientapp"))]
    assert len(nodes) == 10
    for one in nodes:
        assert not {"server", "control"} & set(one["networks"])
        assert not any("superlink:" in word for word in one["command"])
    guide = (ROOT / "docs" / "edge.md").read_text(encoding="utf-8")
    assert "flower-superlink --host 127.0.0.1" in guide
    assert not re.search(r"flower-superlink[^`]*--host 0\.0\.0\.0", guide)


def test_a_runs_code_is_another_user_than_the_key() -> None:
    units = {name: (ROOT / "edge" / f"flotilla-{name}.service").read_text() for name in ("clientapp", "supernode")}
    users = {name: re.findall(r"^User=(.+)$", unit, re.MULTILINE) for name, unit in units.items()}
    assert users == {"clientapp": ["flotilla-app"], "supernode": ["flotilla"]}
    for name, one in SERVICES.items():
        if name.startswith("clientapp"):
            assert not any(volume.endswith((":/keys/own", ":/keys/own:ro")) for volume in one["volumes"])


def test_no_service_takes_all_there_is() -> None:
    for name, one in SERVICES.items():
        limits = one["deploy"]["resources"]["limits"]
        assert {"cpus", "memory", "pids"} <= set(limits), name
        assert one["read_only"], name
    assert "umask 077" in SERVICES["superlink"]["entrypoint"][2]


@pytest.mark.parametrize("lock", ["develop", "device"])
def test_what_is_installed_is_known_by_its_hash(lock: str) -> None:
    entries = re.split(r"\n(?=[a-z0-9])", (ROOT / "locks" / f"{lock}.txt").read_text().strip())
    packages = [one for one in entries if not one.startswith("#")]
    assert len(packages) > 20
    for one in packages:
        assert re.match(r"[\w.-]+(\[[\w,-]+\])?==\S+", one), one[:60]
        assert "--hash=sha256:" in one, one[:60]
    assert "--require-hashes" in (ROOT / "Makefile").read_text()


class Derived(LocalDpMod):
    """Somebody's own, of flwr's."""


@wraps(secaggplus_mod)
def wrapped(*arguments: Any) -> Any:
    return secaggplus_mod(*arguments)


@pytest.mark.parametrize("mod", [secaggplus_mod, Derived(1.0, 1.0, 1.0, 1e-5), partial(secaggplus_mod), wrapped])
def test_a_protection_that_would_do_nothing_is_refused_under_any_name(mod: Any) -> None:
    with pytest.raises(TypeError, match="would not act"):
        refuse_idle(ClientApp(mods=[message_size_mod, mod]))


def _pictures(root: Path) -> Path:
    for part in ("train", "test"):
        for name in ("ant", "bee"):
            (root / part / name).mkdir(parents=True)
            for number in range(4):
                Image.new("L", (8, 8), 20 * number).save(root / part / name / f"{number}.png")
    return root


def test_what_is_no_picture_or_far_too_large_is_passed_over(tmp_path: Path) -> None:
    """A named pipe, which would be read for ever, and a picture that would not fit the memory."""
    folder = _pictures(tmp_path) / "train" / "ant"
    os.mkfifo(folder / "pipe.png")
    Image.new("1", (8192, MOST_PIXELS // 8192 + 1)).save(folder / "poster.png")
    found = load(DataSettings(dataset="image-folder", data_root=str(tmp_path), image_size=8))
    assert len(found.train) == 8


def test_an_honest_devices_error_names_no_file(play: Player, tmp_path: Path) -> None:
    ward = _pictures(tmp_path / "ward")
    (ward / "train" / "ant" / "emile-zola.png").write_bytes(b"no picture")
    keys: dict[str, Any] = {"num_clients": 3, "dataset": "image-folder", "image_size": 8, "num_server_rounds": 1}
    keys["data_root"] = str(_pictures(tmp_path / "everybody"))
    nodes = contexts(keys_of(**keys), 3)
    nodes[address_of(1)].node_config["data-root"] = str(ward)
    out = play(nodes=nodes, **keys)
    assert [one["reason"].partition("data: ")[0] for one in out.rejected] != [""]
    written = "".join(file.read_text() for file in out.path.rglob("*.json*"))
    assert "emile" not in written
    assert str(ward) not in written
