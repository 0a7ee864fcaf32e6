"""docs/clients.md: its code runs, in process and through Flower; other people's apps are run as theirs."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from flwr.app import ArrayRecord, Context, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from client_app.serve import TrainTask, serve
from flotilla.flwr_compat.identity import assume_identity
from flotilla.local import run_other
from flotilla.local.grid import LocalGrid, contexts
from flotilla.local.stopped import code_of
from flotilla.own_app import AppError
from flotilla.user_code import make_importable, packages_of
from models import base_store, initial_state
from models.adapters.adapter import Adapter
from models.networks.bases import drawn_base
from models.randomness import torch_generator
from protocol import Scalar
from protocol.codecs import CodecSettings
from strategies import (
    DepthFL,
    FedDyn,
    FedSALoRA,
    Fjord,
    FlowerStrategy,
    HeteroFL,
    HetLoRA,
    NetworkSpec,
    Ravan,
    Settings,
    parse_ranks,
    parse_tiers,
)
from strategies.flower_adapter import NothingLearnt
from strategies.nodes.manager import NobodyAnswered
from strategies.robustness.options import GuardOptions
from strategies.secure.options import SecureOptions
from strategies.selection import selector
from tests.clients_page import BLOCKS, write_app

LAB = Path(__file__).parents[1] / "plugins/my_lab"
TIERS = parse_tiers("a:1, b:1/2")


def page(name: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(BLOCKS[name], names)  # our own page
    return names


@pytest.fixture
def their_app(tmp_path: Path) -> Path:
    return write_app(tmp_path)


def strategy(kind: type[FlowerStrategy] = HeteroFL, exits: str = "auto", **settings: Any) -> FlowerStrategy:
    told = Settings(tiers=TIERS, nodes=4, node_wait=0.0, **settings)
    return kind(NetworkSpec("mlp", (1, 8, 8), 10, widths=(16, 8), exits=exits), told)


def started(method: FlowerStrategy, client: Any, rounds: int = 2) -> float:
    """Train; loss of the last round."""
    first = initial_state(method.network, torch_generator(1, 0, "server", "test"))
    result = method.start(LocalGrid(client, contexts({}, 4)), ArrayRecord(first), num_rounds=rounds)
    return float(result.train_metrics_clientapp[rounds]["train-loss"])  # type: ignore[arg-type]


def test_the_clients_half_is_40_lines() -> None:
    assert len(BLOCKS["my_app/client_app.py"].splitlines()) <= 40


def test_the_page_runs_in_process() -> None:
    assume_identity()
    server, client = page("my_app/server_app.py")["app"], page("my_app/client_app.py")["app"]
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={"rounds": 2})
    server(LocalGrid(client, contexts({}, 4)), context)


@pytest.mark.slow
def test_it_learns_and_every_feature_is_answered() -> None:
    """Statistics, losses and gradients for selectors, FedDyn's term, secure aggregation, evaluation."""
    names = page("my_app/client_app.py")
    assert started(strategy(), names["app"], 8) < 0.7 * started(strategy(), names["app"], 1)
    client = serve(type(names["app"])(), names["train"], data=names["data"], test_data=names["data"])
    for method in (
        strategy(selector=selector("pow-d")),
        strategy(selector=selector("divfl")),
        strategy(kind=FedDyn, dynamic_alpha=0.1),
        strategy(kind=DepthFL, exits="plain"),
        strategy(kind=Fjord),
        strategy(
            kind=Fjord,
            guard=GuardOptions(min_cover=2),
            secure=SecureOptions(secure_aggregation=True, secure_threshold=2),
        ),
        strategy(fraction_evaluate=1.0),
    ):
        started(method, client)
        assert method.report.rejected == []
    assert len(method.report.scores) == 4


@pytest.mark.slow
@pytest.mark.parametrize("task", ["regression", "multi-label"])
def test_labels_may_be_no_classes(task: str) -> None:
    """Two numbers, or two questions, about the mean of an input; selectors and evaluation, too."""
    names = page("my_app/client_app.py")
    theirs = names["data"]

    def data(context: Context) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, _ = theirs(context)
        mean = inputs.flatten(1).mean(1)
        wanted = torch.stack([mean, -2 * mean], 1)
        return inputs, (wanted > 0).float() if task == "multi-label" else wanted

    names["data"] = data  # of which their train function reads
    client = serve(type(names["app"])(), names["train"], data=data, test_data=data)
    chosen: list[dict[str, Any]] = [{}, {"selector": selector("pow-d")}]
    for more in chosen:
        told = Settings(tiers=TIERS, nodes=4, node_wait=0.0, fraction_evaluate=1.0, **more)
        method = HeteroFL(NetworkSpec("mlp", (1, 8, 8), 2, widths=(16, 8), task=task), told)
        losses = [started(method, client, rounds) for rounds in (1, 6)]
        assert method.report.rejected == []
        assert losses[1] < losses[0]
        assert len(method.report.scores) == 4
    if task == "multi-label":
        assert all(score.metrics["accuracy"] > 0.5 for score in method.report.scores)


@pytest.mark.parametrize("named", ["network", "codec"])
def test_it_follows_what_its_node_config_allows(named: str) -> None:
    """A peer's request names code; a device without `allow`, as in a deployment, follows no such name."""
    make_importable(packages_of([LAB], Path(__file__).parents[2]))
    names = page("my_app/client_app.py")
    config: dict[str, Scalar] = {}
    spec, codec = NetworkSpec("mlp", (1, 8, 8), 10, widths=(16, 8)), CodecSettings()
    if named == "network":
        spec = NetworkSpec("my_lab.networks:perceptron", (1, 8, 8), 10, options=(("hidden", 12),))
    else:
        config, codec = {"codec": "my_lab.codecs:Bytes"}, CodecSettings(name="my_lab.codecs:Bytes")
    for allow in ("my_lab.*", "other.*", None):
        method = HeteroFL(spec, Settings(tiers=TIERS, nodes=4, node_wait=0.0, codec=codec))
        first = ArrayRecord(initial_state(method.network, torch_generator(1, 0, "server", "test")))
        nodes = contexts(config, 4)
        for context in nodes.values():
            del context.node_config["allow"]
            context.node_config |= {} if allow is None else {"allow": allow}
        grid = LocalGrid(names["app"], nodes)
        if allow == "my_lab.*":
            method.start(grid, first, num_rounds=1)
            assert method.report.rejected == []
        else:
            with pytest.raises((NothingLearnt, NobodyAnswered), match=r"my_lab\..*owner allows"):
                method.start(grid, first, num_rounds=1)
    make_importable({})


def test_an_objective_of_its_own_needs_the_tasks_loss() -> None:
    names = page("my_app/client_app.py")

    def train(module: Any, task: TrainTask, context: Context) -> float:
        del module, task, context
        return 0.0

    client = serve(type(names["app"])(), train, data=names["data"])
    with pytest.raises(NothingLearnt, match=r"has to use task\.loss"):
        started(strategy(kind=Fjord), client)


def test_tensors_that_were_replaced_count() -> None:
    names = page("my_app/client_app.py")

    def train(module: Any, task: TrainTask, context: Context) -> float:
        loss = names["train"](module, task, context)
        for parameter in module.parameters():
            parameter.data = parameter.data.clone() + 1.0
        return float(loss)

    client, method, plain = serve(type(names["app"])(), train, data=names["data"]), strategy(), strategy()
    started(method, client, 1)
    started(plain, names["app"], 1)
    moved = {name: (tensor - plain.state[name]).abs().max().item() for name, tensor in method.state.items()}
    assert all(abs(by - 1.0) < 1e-3 for by in moved.values())


def test_data_of_another_type_is_trained_on_or_refused_by_name() -> None:
    names = page("my_app/client_app.py")

    def arrays(context: Context) -> Any:
        inputs, labels = names["data"](context)
        return inputs.double().numpy(), labels.int().numpy()

    trained = strategy(kind=Fjord)
    patched = {**names}
    exec(BLOCKS["my_app/client_app.py"].partition("app = ")[0], patched)  # a train function that has the arrays, too
    patched["data"] = arrays
    started(trained, serve(ClientApp(), patched["train"], data=arrays), 1)
    assert trained.report.rejected == []

    def floats(context: Context) -> Any:
        inputs, labels = names["data"](context)
        return inputs, labels.float()

    for given, allowed in (
        (floats, "labels of an integer type"),
        (lambda context: (torch.zeros(0, 1, 8, 8), torch.zeros(0).long()), "at least one example"),
    ):
        with pytest.raises(NobodyAnswered, match=rf"serve\(…, data=…\): allowed is {allowed}"):
            started(strategy(), serve(ClientApp(), names["train"], data=given), 1)


def test_neither_data_nor_examples_is_refused() -> None:
    names = page("my_app/client_app.py")
    with pytest.raises(TypeError, match="data or examples"):
        serve(type(names["app"])(), names["train"])


def flotilla(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flotilla", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=800, check=False)


def test_the_local_engine_runs_the_other_app(their_app: Path, tmp_path: Path) -> None:
    """Row 18: not Flotilla's own halves with the other's configuration; and its failure is the exit code."""
    done = flotilla("run", str(their_app), "--engine", "local", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "HeteroFL on mlp" in done.stdout + done.stderr
    assert "\x1b" not in done.stdout + done.stderr  # neither is a terminal
    assert not (tmp_path / "runs").exists()
    foreign = "from flwr.clientapp import ClientApp\n\napp = ClientApp()\n"  # as row 17: knows no hello
    (their_app / "my_app/client_app.py").write_text(foreign)
    done = flotilla("run", str(their_app), "--engine", "local", cwd=tmp_path)
    assert done.returncode != 0
    assert "none of 4 nodes answered hello" in done.stderr
    assert "docs/clients.md" in done.stderr


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ("", r"allowed is \[tool\.flwr\.app\.components\] with serverapp and clientapp"),
        ('serverapp = "my_app.server_app:app"', r"allowed is \[tool\.flwr\.app\.components\]"),
        ("serverapp = 1\nclientapp = 2", r"allowed is \[tool\.flwr\.app\.components\]"),
        ('serverapp = "none.such:app"\nclientapp = "x:y"', "serverapp = .* a ServerApp; there is no module none"),
        ('serverapp = "my_app"\nclientapp = "x:y"', "serverapp = 'my_app': allowed is MODULE:NAME of a ServerApp"),
        ('serverapp = "my_app.server_app:application"\nclientapp = "x:y"', "there is no application in my_app"),
        ('serverapp = "my_app.server_app:main"\nclientapp = "x:y"', "a ServerApp; that is a function"),
        ('serverapp = "my_app.server_app:app"\nclientapp = "my_app.server_app:app"', "clientapp = .*; that is"),
    ],
)
def test_an_app_without_its_halves_is_one_line(
    their_app: Path, monkeypatch: pytest.MonkeyPatch, told: str, says: str
) -> None:
    head = (their_app / "pyproject.toml").read_text().partition("[tool.flwr.app.components]")[0]
    named = f"[tool.flwr.app.components]\n{told}\n" if told else ""
    (their_app / "pyproject.toml").write_text(head + named)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_app"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(AppError, match=says) as caught:
        run_other(their_app, {}, 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("ends", "code", "says"),
    [('"no data"', 1, "no data"), ("3", 3, ""), ("", 1, "before any node had trained"), ("256", 1, "")],
)
def test_the_local_engine_ends_as_the_app_does(
    their_app: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ends: str,
    code: int,
    says: str,
) -> None:
    """It is no signal, and a success that nothing was learnt by is a failure."""
    (their_app / "leaving.py").write_text(
        "import sys\nfrom flwr.serverapp import ServerApp\napp = ServerApp()\n"
        f"@app.main()\ndef main(grid, context):\n    sys.exit({ends})\n"
    )
    project = their_app / "pyproject.toml"
    project.write_text(project.read_text().replace("my_app.server_app:app", "leaving:app"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "leaving", raising=False)
    assume_identity()
    assert run_other(their_app, {}, 2) == code
    assert says in capsys.readouterr().err
    monkeypatch.delitem(sys.modules, "leaving")
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_app"]:
        del sys.modules[name]


def test_an_exit_after_training_is_a_success() -> None:
    assert code_of(SystemExit(), learnt=True) == 0
    assert code_of(SystemExit(0), learnt=False) == 1


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_stops_the_local_engine(their_app: Path, tmp_path: Path, signum: signal.Signals, code: int) -> None:
    if signal.getsignal(signum) is signal.SIG_IGN:
        pytest.skip(f"{signum.name} is ignored here, as nohup has it, and so it is in what is started")
    (their_app / "my_app/server_app.py").write_text(
        "import os, time\nfrom flwr.serverapp import ServerApp\napp = ServerApp()\n"
        f"@app.main()\ndef main(grid, context):\n    os.kill(os.getpid(), {int(signum)})\n    time.sleep(60)\n"
    )
    done = flotilla("run", str(their_app), "--engine", "local", cwd=tmp_path)
    assert done.returncode == code
    assert f"{signum.name}: stopped the run" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.e2e
@pytest.mark.slow
def test_the_page_runs_through_flower(their_app: Path, tmp_path: Path) -> None:
    done = flotilla("run", str(their_app), "--verbose", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "HeteroFL on mlp" in done.stdout + done.stderr


def with_pairs(kind: type[FlowerStrategy], **options: Scalar) -> FlowerStrategy:
    """A rule for pairs of factors, on a base that this process holds."""
    spec = NetworkSpec("mlp", (1, 8, 8), 10, widths=(16, 8), norm="none", adapter=Adapter(rank=4))
    spec = replace(spec, base=base_store.hold(drawn_base(spec, 0)))
    return kind(spec, Settings(tiers=parse_ranks("a:4, b:2", 4), nodes=4, node_wait=0.0), **options)


def test_own_train_functions_take_part_in_rules_for_ranks_as_far_as_they_can() -> None:
    names = page("my_app/client_app.py")
    pruned = with_pairs(HetLoRA, pruning=1.0, share=0.6)
    started(pruned, names["app"])
    ranks = pruned.runner.pieces.memory.values["ranks"]
    assert ranks
    assert set(ranks.values()) <= {1, 2}
    refused = with_pairs(FedSALoRA)
    with pytest.raises(NothingLearnt):
        started(refused, names["app"])
    assert all("this device keeps none" in one.reason for one in refused.report.rejected)


def test_own_train_functions_train_the_scales_of_heads_too() -> None:
    """They are no part of the state, and what an optimiser is given are the module's parameters."""
    data, seen = page("my_app/client_app.py")["data"], dict[str, list[torch.Tensor]]()

    def train(module: nn.Module, task: TrainTask, context: Context) -> float:
        before = dict(module.named_parameters())
        optimiser = torch.optim.SGD(module.parameters(), lr=0.5)
        for _ in range(3):
            optimiser.zero_grad()
            loss, _ = task.loss(*data(context))
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        for name, parameter in before.items():
            if name.endswith(".scale"):
                seen.setdefault(name, []).append(parameter.detach().clone())
        return float(loss.detach())

    method = with_pairs(Ravan, heads=2)
    started(method, serve(ClientApp(), train, data=data), rounds=1)
    assert seen
    assert any(float((one - 1).abs()) > 1e-3 for scales in seen.values() for one in scales)
    assert not any("scale" in name for name in method.state)
    # A run whose device keeps them as they came ends elsewhere: they were multiplied into what was sent.
    fixed = with_pairs(Ravan, heads=2)
    with patch("client_app.served_device.fold_scales"):
        started(fixed, serve(ClientApp(), train, data=data), rounds=1)
    assert any(not torch.equal(fixed.state[name], tensor) for name, tensor in method.state.items())


def idle(module: nn.Module, task: TrainTask, context: Context) -> float:
    """As one that trains a copy of the module."""
    del module, task, context
    return 0.5


def test_a_run_whose_devices_change_nothing_has_learnt_nothing(caplog: pytest.LogCaptureFixture) -> None:
    data = page("my_app/client_app.py")["data"]
    with pytest.raises(NothingLearnt, match="differences of zero"):
        started(strategy(), serve(ClientApp(), idle, data=data))
    said = [line for line in caplog.messages if "changed nothing" in line]
    assert [line.partition(" changed")[0] for line in said] == ["round 1", "round 2"]


@pytest.mark.parametrize("end", [SystemExit(0), SystemExit(3), SystemExit("no"), RuntimeError("broken")])
def test_a_client_that_ends_its_process_has_failed_and_the_run_goes_on(
    end: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    names, rounds = page("my_app/client_app.py"), list[int]()

    def train(module: nn.Module, task: TrainTask, context: Context) -> float:
        rounds.append(task.round_number)
        if task.round_number > 1:
            raise end
        return float(names["train"](module, task, context))

    method = strategy()
    started_with = LocalGrid(serve(ClientApp(), train, data=names["data"]), contexts({}, 4))
    first = initial_state(method.network, torch_generator(1, 0, "server", "test"))
    method.start(started_with, ArrayRecord(first), num_rounds=3)
    assert set(rounds) == {1, 2, 3}
    said = [line for line in caplog.messages if "changed nothing: abandoned, 0 of 4" in line]
    assert len(said) == 2
    assert type(end).__name__ in said[0]
