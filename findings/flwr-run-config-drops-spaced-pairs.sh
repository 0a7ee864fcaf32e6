#!/usr/bin/env bash
# flwr 1.41.0: a run-config text in which a pair is written as TOML writes it, with spaces around "=", loses that pair
# without a word. `flwr run --run-config 'method = "fedavg" rounds=3'` runs with rounds=3 and the app's default method:
# pairs are searched for in the text, and what stands between them is ignored.
# For our users: `flotilla run` reads the same text and refuses what flwr would drop (docs/flower.md).
# Exits with 0 while it is so, with 1 when it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check "flwr==1.41.0"
env/bin/python - <<'PYTHON'
import tomllib
from importlib.metadata import version

from flwr.common.config import parse_config_args

TEXT = 'method = "fedavg"'
assert tomllib.loads(TEXT) == {"method": "fedavg"}  # valid TOML, the notation that flwr's own message names
spaced = parse_config_args([f"{TEXT} rounds=3"])
close = parse_config_args(['method="fedavg" rounds=3'])
print(f"flwr {version('flwr')}: with spaces {spaced}, without {close}")
assert close == {"method": "fedavg", "rounds": 3}, close
raise SystemExit(0 if spaced == {"rounds": 3} else 1)
PYTHON
