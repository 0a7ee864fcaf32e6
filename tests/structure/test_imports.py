"""Who may import whom, and what nobody may use: pickle, torch.load, global generators."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.probes.structure import PACKAGES as EVERY
from benchmarks.probes.structure import ROOT, modules, tree

PACKAGES = tuple(package for package in EVERY if package != "benchmarks")
FILES = list(modules(*PACKAGES).values())

PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib"}
# Global generators, by how they are called. Generators of one's own are made by models.randomness.
GLOBAL_DRAWS = {
    "torch": {"manual_seed", "seed", "initial_seed", "set_rng_state", "get_rng_state", "load", "save"},
    "numpy.random": {"*"},
    "torch.random": {"*"},
    "torch.cuda": {"manual_seed", "manual_seed_all", "seed", "seed_all"},
    "random": {"*"},
    "pickle": {"*"},
}
# Global unless they are given a generator; the `_like` ones cannot be.
DRAWS = {f"torch.{name}" for name in ("rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial")}
DRAWS |= {f"torch.{name}_like" for name in ("rand", "randn", "randint")}
# Seeds global generators for a user's factory and for flwr's quantiser, and puts them back.
FOR_OTHERS = ROOT / "models/randomness.py"
_PUT_BACK = [
    "torch.random.fork_rng",
    "torch.manual_seed",
    "np.random.get_state",
    "np.random.seed",
    "np.random.set_state",
]
# Has an app's messages draw as processes of their own would; ours draws from none of these.
FOR_APPS = ROOT / "flotilla/flwr_compat/load_app.py"
_SEEDED_ANEW = [
    "import random",
    "np.random.seed",
    "random.getstate",
    "random.seed",
    "random.setstate",
    "torch.seed",
]
ALLOWED = {
    "pickle.PickleBuffer",  # says what lies beside a pickle; Ray writes and reads both
    "pickle.UnpicklingError",  # torchvision reads CIFAR's own files, after checking their MD5
    "numpy.random.Generator",
    "numpy.random.PCG64",
    "numpy.random.SeedSequence",
    "numpy.random.default_rng",
}


def imported_after(code: str) -> set[str]:
    """Top-level modules and packages that a fresh process has after running some code."""
    script = f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=600
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_contracts_hold() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run([*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


def test_models_import_nothing_of_ours_and_no_flwr() -> None:
    found = {name.partition(".")[0] for name in imported_after(f"import {', '.join(modules('models'))}")}
    assert "models" in found
    assert "torch" in found
    assert not found & ({"flwr", "sklearn", "ray", "tensorboard", "benchmarks"} | set(PACKAGES) - {"models"})


def test_the_client_imports_no_server_half() -> None:
    found = {name.partition(".")[0] for name in imported_after("import client_app.app")}
    assert not found & {"strategies", "server_app", "flotilla", "benchmarks", "ray", "tensorboard", "matplotlib"}
    assert "torch._dynamo" not in found


def test_the_server_imports_no_client_half() -> None:
    found = {name.partition(".")[0] for name in imported_after("import server_app.app")}
    assert not found & {"client_app", "flotilla", "benchmarks", "ray"}


def test_strategies_import_no_data_and_no_apps() -> None:
    found = {name.partition(".")[0] for name in imported_after("import strategies")}
    assert not found & {"data", "client_app", "server_app", "flotilla", "benchmarks", "sklearn", "ray"}


@pytest.mark.parametrize("package", PACKAGES)
def test_there_is_something_to_check(package: str) -> None:
    assert any(file.is_relative_to(ROOT / package) for file in FILES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_forbidden_is_used(file: Path) -> None:
    known = {FOR_OTHERS: _PUT_BACK, FOR_APPS: _SEEDED_ANEW}.get(file, [])
    assert sorted(line.partition(": ")[2] for line in forbidden(tree(file))) == sorted(known)


def forbidden(module: ast.Module) -> Iterator[str]:
    """Lines that use a pickle or a global generator, under whatever name it was imported."""
    names: dict[str, str] = {}
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
                if alias.name.partition(".")[0] in PICKLES - {"pickle"} | {"random"}:
                    yield f"line {node.lineno}: import {alias.name}"
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                if node.module.partition(".")[0] in PICKLES - {"pickle"} or banned(f"{node.module}.{alias.name}"):
                    yield f"line {node.lineno}: from {node.module} import {alias.name}"
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute):
            path = dotted(node)
            first, _, rest = path.partition(".")
            if path and first in names and banned(f"{names[first]}.{rest}"):
                yield f"line {node.lineno}: {path}"
        elif isinstance(node, ast.Call):
            first, _, rest = dotted(node.func).partition(".")
            draws = f"{names.get(first, first)}.{rest}".rstrip(".") in DRAWS
            if draws and not any(keyword.arg == "generator" for keyword in node.keywords):
                yield f"line {node.lineno}: {first}.{rest} without a generator"


def banned(name: str) -> bool:
    module, _, last = name.rpartition(".")
    uses = GLOBAL_DRAWS.get(module, set())
    return name not in ALLOWED and (last in uses or "*" in uses)


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    inner = dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{inner}.{node.attr}" if isinstance(node, ast.Attribute) and inner else ""


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("import pickle\npickle.loads(x)", True),
        ("import pickle\npickle.UnpicklingError", False),
        ("import dill", True),
        ("from cloudpickle import dumps", True),
        ("import random", True),
        ("from random import shuffle", True),
        ("import torch\ntorch.manual_seed(1)", True),
        ("import torch as t\nt.load('x')", True),
        ("from torch import load", True),
        ("import numpy as np\nnp.random.seed(1)", True),
        ("import numpy as np\nnp.random.permutation(3)", True),
        ("from numpy import random", False),
        ("from numpy import random\nrandom.rand()", True),
        ("import numpy as np\nnp.random.Generator(np.random.PCG64(1))", False),
        ("import torch\ntorch.Generator().manual_seed(1)", False),
        ("from models.randomness import generator", False),
        ("import json\njson.load(x)", False),
        ("import torch\ntorch.randperm(3)", True),
        ("import torch\ntorch.randperm(3, generator=g)", False),
        ("import torch\ntorch.rand_like(x)", True),
        ("from torch import randn\nrandn(3)", True),
    ],
)
def test_the_check_itself(code: str, wrong: bool) -> None:
    assert bool(list(forbidden(ast.parse(code)))) == wrong
