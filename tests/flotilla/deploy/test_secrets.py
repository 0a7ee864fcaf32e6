"""No key, certificate or token is in the tree, and none can get into an image or a bundle."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
# What keys and tokens look like; written so that this file does not match itself.
SECRETS = re.compile(
    rb"-----BEGIN [A-Z ]*(?:PRIVATE KEY|CERTIFICATE)-----|\bghp_[A-Za-z0-9]{36}\b|\bAKIA[0-9A-Z]{16}\b"
    rb"|\bhf_[A-Za-z0-9]{30,}\b|\bsk-[A-Za-z0-9]{32,}\b|\bxox[bp]-[0-9]{8,}"
)


def tree() -> list[Path]:
    """What git has, or would take with `git add .`."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git repository")
    files = [ROOT / name.decode() for name in listed.stdout.split(b"\0") if name]
    return [file for file in files if file.is_file()]


def test_the_tree_has_no_secret() -> None:
    files = tree()
    assert len(files) > 100
    assert [file for file in files if SECRETS.search(file.read_bytes())] == []
    assert [file for file in files if file.suffix in {".pem", ".key", ".crt", ".p12"} or file.name == "auth"] == []


@pytest.mark.parametrize(
    "line", [b"-----BEGIN " + b"PRIVATE KEY-----", b"-----BEGIN OPENSSH " + b"PRIVATE KEY-----", b"ghp_" + b"a" * 36]
)
def test_the_check_itself(line: bytes) -> None:
    assert SECRETS.search(b"x = '" + line + b"'")


@pytest.mark.parametrize("name", ["keys/ca.key", "keys/superlink/tls.key", "keys/node-0/auth", "elsewhere/x.pem"])
def test_git_ignores_keys(name: str) -> None:
    done = subprocess.run(["git", "check-ignore", "-q", "--no-index", name], cwd=ROOT, check=False)
    assert done.returncode in (0, 128)  # 128: not a git repository


def test_an_image_gets_only_what_is_listed() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    allowed = [line.removeprefix("!") for line in lines[1:]]
    assert all(line.startswith("!") for line in lines[1:])
    assert allowed == [
        "locks/device.txt",
        *(f"flotilla/{name}.py" for name in ("__init__", "deploy/__init__")),
        *(f"flotilla/flwr_compat/{name}.py" for name in ("executor", "node_tasks", "warm_app", "load_app")),
        "flotilla/deploy/tls_keys.py",
    ]
    for name in allowed:
        assert not SECRETS.search((ROOT / name).read_bytes())
    # ADD and COPY take nothing else, and no secret comes in as an argument.
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    copied = re.findall(r"^(?:COPY|ADD) (.+) \S+$", dockerfile, re.M)
    assert sorted(name for line in copied for name in line.split()) == sorted(allowed)
    assert not re.search(r"(?i)^(?:ARG|ENV) \w*(token|secret|password|key)", dockerfile, re.M)


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # in flwr's own builder
def test_a_bundle_gets_code_only() -> None:
    from flotilla.flwr_compat.bundle import build_bundle

    assert not SECRETS.search(build_bundle(ROOT, {}))
