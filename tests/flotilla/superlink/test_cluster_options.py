"""What `--cluster` and `--cluster-env` say, and what of it the nodes are told."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from flotilla import cli
from flotilla.flwr_compat.ray_cluster import ANNOUNCED, Asked
from flotilla.superlink import cluster
from flotilla.superlink.cluster import Cluster, ClusterError, answering, cluster_of
from flotilla.superlink.superlink import environment

HERE = {"FLOTILLA_DATA": "/data", "FLWR_HOME": "/tmp/home", "RAY_TMPDIR": "/tmp/home", "SECRET": "x", "HOME": "/me"}


def asked(env: dict[str, str]) -> Asked:
    found = Asked.read(env[ANNOUNCED])
    assert found is not None
    return found


@pytest.mark.parametrize("address", ["auto", "10.0.0.1:6379", "head.local:6379", "[fd00::2]:6379"])
def test_addresses(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster_of(address).address == address


@pytest.mark.parametrize("address", ["", "10.0.0.1", "ray://10.0.0.1:10001", "local", "a b:1"])
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(ClusterError, match=r"allowed is HOST:PORT .* or auto"):
        cluster_of(address)


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_ports_that_are_none_are_refused(port: str) -> None:
    with pytest.raises(ClusterError, match="allowed is a port from 1 to 65535"):
        cluster_of(f"head:{port}")


def test_a_head_that_is_not_there_is_said_at_once() -> None:
    """Ray itself looks for it for twelve minutes, and a run would lose its first rounds to that."""
    with socket.create_server(("127.0.0.1", 0)) as head:
        here = cluster_of(f"127.0.0.1:{head.getsockname()[1]}")
        assert answering(here) is here
    with pytest.raises(ClusterError, match=r"nobody answers there .*ray start --head"):
        answering(here)


def test_chosen_variables_reach_the_nodes_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "abc")
    for name in ("RAY_TMPDIR", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    chosen = cluster_of("h:1", ["MY_TOKEN", "FLOTILLA_DATA=/there", "EMPTY="])
    env = chosen.environment(HERE, processes=3, gpus_per_client=None)
    found = asked(env)
    assert found.variables == {"FLOTILLA_DATA": "/there", "MY_TOKEN": "abc", "EMPTY": ""}
    assert (found.address, found.processes, found.gpus) == ("h:1", 3, -1.0)
    assert "RAY_TMPDIR" not in env  # where the cluster's files are is the cluster's to say
    assert env["FLOTILLA_DATA"] == "/data"  # here nothing changes
    found = asked(chosen.environment(HERE, processes=None, gpus_per_client=0.5))
    assert (found.processes, found.gpus) == (0, 0.5)


def test_auto_is_where_rays_own_variable_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert cluster_of("auto").address == "head:6379"
    assert cluster_of("other:1").address == "other:1"
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(ClusterError, match="RAY_ADDRESS is 'ray://head:10001'"):
        cluster_of("auto")


@pytest.mark.parametrize("text", ["NOT_SET_ANYWHERE", "A-B=1", "=1"])
def test_variables_that_cannot_be_sent(text: str) -> None:
    with pytest.raises(ClusterError, match="allowed is NAME"):
        cluster_of("h:1", [text])


@pytest.mark.parametrize("text", ["A-B=hush", "=hush", "9=hush"])
def test_no_error_tells_a_value(text: str) -> None:
    with pytest.raises(ClusterError) as error:
        cluster_of("h:1", [text])
    assert "hush" not in str(error.value)


def test_the_command_that_goes_on_tells_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    told = list[str]()

    def kept(folder: Path | None, code: int, command: Sequence[str]) -> None:
        told.extend(command)

    settings = SimpleNamespace(config={}, code=SimpleNamespace(warning=lambda: ""), folder=None)
    monkeypatch.setattr(cli, "prepare", lambda *_, **__: settings)
    monkeypatch.setattr(cli, "aftermath", kept)
    monkeypatch.setattr(cli, "answering", lambda one: one)
    monkeypatch.setattr("flotilla.superlink.run.run_flower", lambda *_, **__: 1)
    words = ["--cluster", "h:1", "--cluster-env", "TOKEN=hush=hush", "--cluster-env", "PATH"]
    result = CliRunner().invoke(cli.app, ["run", *words])
    assert result.exit_code == 1
    assert told[2:] == ["--cluster", "h:1", "--cluster-env", "TOKEN", "--cluster-env", "PATH"]
    assert "hush" not in result.output


def test_a_cluster_of_the_environment_is_not_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inherited = Cluster("theirs:1").environment({}, processes=None, gpus_per_client=None)
    monkeypatch.setenv(ANNOUNCED, inherited[ANNOUNCED])
    here = environment(tmp_path)
    assert Asked.read(here.get(ANNOUNCED, "")) is None
    assert asked(Cluster("ours:1").environment(here, processes=None, gpus_per_client=None)).address == "ours:1"


@pytest.mark.parametrize(
    ("name", "value"), [("RAY_max_direct_call_object_size", str(4 * 2**20)), ("RAY_free_objects_batch_size", "1")]
)
def test_rays_store_is_used_as_we_like_it_unless_told_otherwise(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = environment(tmp_path)
    assert here[name] == value
    there = Cluster("ours:1").environment(here, processes=None, gpus_per_client=None)
    assert name not in there  # the cluster was started with what it has
    monkeypatch.setenv(name, "7")
    assert environment(tmp_path)[name] == "7"


def test_only_rays_clients_go_to_a_cluster() -> None:
    with pytest.raises(ClusterError, match="--engine flower"):
        cluster_of("h:1", engine="local")
    with pytest.raises(ClusterError, match="with --cluster"):
        cluster_of(None, ["A=1"])


def test_both_halves_use_one_name() -> None:
    assert cluster.ANNOUNCED == ANNOUNCED
    assert Asked.read("") is None
    one = Asked(address="auto", variables={}, processes=0, gpus=-1.0, patience=5.0)
    assert Asked.read(json.dumps(asdict(one))) == one
