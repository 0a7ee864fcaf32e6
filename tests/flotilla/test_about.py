"""What the command line says of itself, of the methods and of the settings, by the real command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from flotilla.about import METHOD_NAMES, source_of
from flotilla.nearest import either, nearest
from server_app.config.catalogue import keys as catalogue
from strategies import METHODS, FedRolex

ROOT = Path(__file__).resolve().parents[2]


def flotilla(*words: str, cwd: Path = ROOT, code: int = 0, **env: str) -> tuple[str, str]:
    """Output and error output of a command."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", **env}
    command = [sys.executable, "-m", "flotilla", *words]
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    return done.stdout, done.stderr


def test_version() -> None:
    out, _ = flotilla("--version")
    assert out.startswith(f"flotilla {version('flotilla')} (flwr {version('flwr')}, torch ")
    assert out.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "number", "expected"),
    [
        ("flotilla ru", "1", {"run"}),
        ("flotilla run --eng", "2", {"--engine"}),
        ("flotilla run --engine ", "3", {"flower", "local"}),
        ("flotilla explain learning-rate-", "2", {"learning-rate-schedule", "learning-rate-milestones"}),
    ],
)
def test_completion(words: str, number: str, expected: set[str]) -> None:
    out, _ = flotilla(_FLOTILLA_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=number)
    assert expected <= set(out.split())
    assert all(word.startswith(words.split(" ")[-1]) for word in out.split())


def test_a_script_of_completion_for_the_shell() -> None:
    out, _ = flotilla("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "_FLOTILLA_COMPLETE=complete_bash" in out
    assert re.search(r"complete .* flotilla\b", out)


@pytest.mark.parametrize(
    ("command", "words"),
    [("run", "Folder of the Flower app"), ("explain", "Name of the key"), ("report", "Run folder, such as")],
)
def test_help_says_what_the_arguments_are(command: str, words: str) -> None:
    out, _ = flotilla(command, "--help")
    assert words in out


def test_methods_are_those_of_the_registry() -> None:
    out, _ = flotilla("methods")
    lines = {line.split()[0]: line for line in out.splitlines()[1:]}
    assert lines.keys() == set(METHODS.names())
    assert lines["fedrolex"].endswith("Alam et al., NeurIPS 2022, §3.2")


def test_help_names_the_methods_that_are_built_in() -> None:
    assert METHOD_NAMES.split(", ") == list(METHODS)


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_has_a_line_and_a_source(name: str) -> None:
    method = METHODS[name]
    assert re.match(r"[A-Z0-9].{10,}", method.__doc__ or "")
    baselines = {"smallest", "depthfl-exclusive", "zero-padding"}  # nobody's paper proposes them
    source = source_of(method)
    assert (source == "") == (name in baselines)
    assert source == "" or re.search(r"\b20\d\d\b", source)


def test_a_method_of_another_file_without_a_source() -> None:
    class Mine(FedRolex):
        """Windows that do something else."""

    Mine.__module__ = __name__
    assert source_of(Mine) == ""


@pytest.mark.slow
def test_keys_lists_all_or_those_about_a_word() -> None:
    names = [key.name for key in catalogue()]
    out, _ = flotilla("keys")
    assert [line.split()[0] for line in out.splitlines()[1:]] == names
    out, _ = flotilla("keys", "schedule")
    found = [line.split()[0] for line in out.splitlines()[1:]]
    assert "learning-rate-schedule" in found
    assert len(found) < len(names) / 4
    _, err = flotilla("keys", "shedule", code=2)
    assert "did you mean learning-rate-schedule" in err


def test_explain_says_all_about_a_key(tmp_path: Path) -> None:
    out, _ = flotilla("explain", "fjord-alpha")
    said = dict(re.findall(r"^  (\S.*?)  +(.*)$", out, re.M))
    assert said["default"] == "1.0"
    assert said["value"].startswith("1.0")
    assert "0 to 1" in said["allowed"]
    assert said["read by"] == "method = fjord, prelort"
    assert said["meaning"]
    (tmp_path / "config.json").write_text(json.dumps({"config": {"fjord-alpha": 0.25}}))
    out, _ = flotilla("explain", "fjord-alpha", "--run", str(tmp_path))
    assert re.search(r"value +0\.25 ", out)


@pytest.mark.slow
def test_what_installed_packages_offer_is_listed_and_explained(tmp_path: Path) -> None:
    """The plug-in package, as pip would have installed it: its folder on the path, and its metadata."""
    lab = ROOT / "tests/plugins"
    groups = tomllib.loads((lab / "pyproject.toml").read_text())["project"]["entry-points"]
    metadata = tmp_path / "my_lab-1.0.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-lab\nVersion: 1.0.0\n")
    lines = [
        line for group, names in groups.items() for line in (f"[{group}]", *(f"{k} = {v}" for k, v in names.items()))
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    path = os.pathsep.join(map(str, (ROOT, lab, tmp_path)))

    out, _ = flotilla("methods", PYTHONPATH=path)
    assert re.search(r"^from-offset +HeteroFL's parts, but not from the first unit on", out, re.M)
    out, _ = flotilla("keys", "noise", PYTHONPATH=path)
    assert re.search(r"^stripes-noise +0\.2 +standard deviation of the noise", out, re.M)
    out, _ = flotilla("keys", "from-offset", PYTHONPATH=path)
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["from-offset-offset", "from-offset-smoothing"]
    out, _ = flotilla("explain", "perceptron-hidden", PYTHONPATH=path)
    assert re.search(r"allowed +a whole number; 2 to 4096", out)
    assert re.search(r"read by +model = perceptron", out)
    _, err = flotilla("explain", "stripes-nois", PYTHONPATH=path, code=2)
    assert "did you mean stripes-noise" in err
    _, err = flotilla("run", "-c", "from-offset-offset=2", PYTHONPATH=path, cwd=tmp_path, code=2)
    assert err == 'flotilla: from-offset-offset = 2: no such setting; set with method = "from-offset" only\n'


def test_another_apps_keys_are_its_own(tmp_path: Path) -> None:
    project = '[tool.flwr.app.components]\nserverapp = "x:y"\n[tool.flwr.app.config]\nrounds = 2\nname = "x"\n'
    (tmp_path / "pyproject.toml").write_text(project)
    out, _ = flotilla("keys", cwd=tmp_path)
    assert [line.split() for line in out.splitlines()[1:]] == [["rounds", "2"], ["name", '"x"']]
    out, _ = flotilla("explain", "rounds", cwd=tmp_path)
    assert re.search(r"read by +this app", out)
    _, err = flotilla("run", "-c", 'method="fedavg"', "--engine", "local", cwd=tmp_path, code=2)
    assert err == "flotilla: method = 'fedavg': no such setting; this app has rounds, name\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["explain", "learning-rat"], "learning-rat: no such setting; did you mean learning-rate, "),
        (["explain", "seed", "--run", "/nowhere"], "/nowhere: no run folder with a config.json"),
        (["run", "-c", "lerning-rate=0.1"], "lerning-rate = 0.1: no such setting; did you mean learning-rate, "),
        (["run", "-c", "fjord-distillation=True"], "fjord-distillation = True: booleans are true or false"),
        (["run", "-c", "fleet=1"], "fleet = 1: no such setting; simulated-devices, as this key is called now"),
        (["explain", "fleet"], "fleet: no such setting; simulated-devices, as this key is called now"),
        (["run", "-c", "seed=1 seed=2"], "seed is given twice, as 1 and as 2"),
        (["run", "-c", "min-nodes=50 num-clients=6"], "min-nodes = 50: allowed is "),
        (["report", "/nowhere"], "/nowhere: no run folder"),
    ],
)
def test_a_mistake_is_answered_in_one_line_before_anything_starts(words: list[str], said: str, tmp_path: Path) -> None:
    out, err = flotilla(*words, cwd=tmp_path, code=2)
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
    assert len(err) < 300
    assert not list(tmp_path.iterdir())


def test_nearest_names() -> None:
    names = ["learning-rate", "learning-rate-decay", "seed", "num-server-rounds", "node-wait"]
    assert nearest("learning_rate", names)[0] == "learning-rate"
    assert nearest("rounds", names)[0] == "num-server-rounds"
    assert nearest("deccay", names)[0] == "learning-rate-decay"
    assert nearest("qqqq", names) == []
    assert either(["a"]) == "a"
    assert either(["a", "b", "c"]) == "a, b or c"
