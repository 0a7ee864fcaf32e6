#!/usr/bin/env bash
# flwr 1.41.0: SecAgg+ draws a client's masks from 32 bits of the agreed key. `pseudo_rand_gen(seed, …)` folds its seed
# with XOR into one 32-bit number and gives that to NumPy's RandomState (a Mersenne Twister), so keys of 256 bits that fold
# to the same number give the same mask; and as the key comes in base64, whose characters leave a bit of each byte
# unused, only 28 of the 32 bits vary. A mask is to look random to the server whatever it can compute.
# For our users: secure aggregation here would take flwr's key agreement, encryption and secret shares, but not this
# generator (docs/privacy.md).
# Exits with 0 while it is so, with 1 when it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check "flwr==1.41.0"
env/bin/python - <<'PYTHON'
from functools import reduce
from importlib.metadata import version

import numpy as np
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.supercore.primitives.asymmetric import generate_key_pairs

keys = []
for _ in range(200):
    (ours, _), (_, theirs) = generate_key_pairs(), generate_key_pairs()
    keys.append(generate_shared_key(ours, theirs))
first = keys[0]
words = [first[i : i + 4] for i in range(0, len(first), 4)]
other = b"".join(words[1:] + words[:1])  # another key: the same words in another order
same = np.array_equal(pseudo_rand_gen(first, 1 << 20, [(1000,)])[0], pseudo_rand_gen(other, 1 << 20, [(1000,)])[0])
folded = [reduce(lambda a, b: a ^ int.from_bytes(b, "little"), [k[i : i + 4] for i in range(0, len(k), 4)], 0) for k in keys]
fixed = sum(1 for bit in range(32) if len({n >> bit & 1 for n in folded}) == 1)
print(f"flwr {version('flwr')}: keys of {len(first)} bytes; another key with the same words gives the same mask: {same}")
print(f"of the 32 bits {fixed} are the same in each of {len(keys)} keys")
raise SystemExit(0 if same and other != first else 1)
PYTHON
