#!/usr/bin/env bash
# FLGo 0.4.4: the docstring of flgo.init says that clients are sampled by 'uniform' (default) and averaged by 'other'
# (default standard fedavg). What a run gets is 'md' and 'uniform': clients are drawn with replacement, so hardly a round
# has as many different ones as asked for, and those who are drawn twice train once and count twice.
# For our users: docs/peers.md measures FLGo with sample = 'uniform', so that as many clients train as elsewhere.
# Exits with 0 while it is so, with 1 when it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "flgo==0.4.4"
env/bin/python -W ignore - <<'PYTHON'
from importlib.metadata import version
from types import SimpleNamespace

import flgo
import numpy as np
from flgo.algorithm.fedbase import BasicServer
from flgo.utils.fflow import default_option_dict

np.random.seed(1)
said = next(line for line in flgo.init.__doc__.splitlines() if line.split()[:1] == ["sample"])
server = SimpleNamespace(
    sample_option=default_option_dict["sample"],
    proportion=default_option_dict["proportion"],
    num_clients=100,
    clients=[SimpleNamespace(datavol=50)] * 100,
)
different = [len(set(BasicServer.sample(server))) for _ in range(1000)]
print(f"flgo {version('flgo')}: documented {' '.join(said.split())[:90]} …")
print(f"really {default_option_dict['sample']!r}, averaged by {default_option_dict['aggregate']!r}")
print(f"of 20 clients a round {np.mean(different):.1f} are different ones; all 20 in {different.count(20)} of 1,000 rounds")
assert "'uniform' (default)" in said
raise SystemExit(0 if default_option_dict["sample"] == "md" and np.mean(different) < 19.5 else 1)
PYTHON
