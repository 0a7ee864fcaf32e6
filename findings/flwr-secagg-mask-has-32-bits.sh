#!/usr/bin/env bash
# flwr 1.41.0: the masks of SecAgg and SecAgg+ (`pseudo_rand_gen`) depend on 32 bits of their key, whatever its length:
# the key's four-byte words are combined by exclusive or, so keys with the same words in another order give one mask. A
# mask also never holds the largest number of its range, so it is not uniform.
# For our users: masks here are the key stream of a cipher, all 32 bytes of the key count (protocol/secure/masks.py).
# Exits with 0 while it is so, with 1 when it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check "flwr==1.41.0"
env/bin/python - <<'PYTHON'
from importlib.metadata import version

from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

KEY = bytes(range(32))
OTHER = KEY[16:] + KEY[:16]
assert KEY != OTHER
one, other = (pseudo_rand_gen(key, 2**32, [(1000,)])[0] for key in (KEY, OTHER))
largest = max(int(pseudo_rand_gen(KEY, 4, [(100_000,)])[0].max()), 0)
print(f"flwr {version('flwr')}: two keys, one mask: {bool((one == other).all())}; largest of 0 to 3: {largest}")
raise SystemExit(0 if (one == other).all() and largest == 2 else 1)
PYTHON
