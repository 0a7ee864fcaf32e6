"""The final model of small runs as hashes, to hold one checkout against another.

Every method's contract run, and one run for every selector, codec, aggregation, clustering and guard that changes what
is averaged. A change that should not alter results prints the same table before and after; `--against FILE` compares
with a table of another checkout and exits with 1 where they differ. The default job (`--default-job`) takes half a
minute.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import safe_open

from benchmarks.task import Command, Options
from strategies import METHODS
from strategies.methods.ranks.base import RankMethod
from tests.support import play

Keys = Mapping[str, bool | int | float | str]
MORE: dict[str, Keys] = {
    "pow-d": {"method": "heterofl", "selection": "pow-d", "fraction_train": 0.5},
    "divfl": {"method": "heterofl", "selection": "divfl", "fraction_train": 0.5},
    "divfl gradients": {
        "method": "fedavg",
        "selection": "divfl",
        "fraction_train": 0.5,
        "divfl_refresh": "participants",
    },
    "by-size": {"method": "fedavg", "selection": "by-size", "fraction_train": 0.5},
    "qsgd": {"method": "fedrolex", "codec": "qsgd"},
    "eden": {"method": "fedrolex", "codec": "eden"},
    "qsgd elias": {"method": "heterofl", "codec": "qsgd", "codec_entropy": "elias"},
    "topk": {"method": "heterofl", "codec": "topk", "codec_share": 0.1},
    "ef21": {"method": "fedrolex", "codec": "ef21", "codec_share": 0.1, "fraction_train": 0.7},
    "float16": {"method": "depthfl", "codec": "float16"},
    "codec-down": {"method": "fedavg", "codec_down": "qsgd"},
    "q-fedavg": {"method": "fedavg", "aggregation": "q-fedavg"},
    "q-fedsgd": {
        "method": "fedavg",
        "aggregation": "q-fedsgd",
        "local_steps": 1,
        "clip_norm": 0.0,
        "weight_decay": 0.0,
    },
    "fednova": {"method": "heterofl", "aggregation": "fednova"},
    "uniform": {"method": "fedavg", "aggregation": "uniform"},
    "ifca": {"method": "heterofl", "clustering": "ifca"},
    "ifca splitmix": {"method": "splitmix", "clustering": "ifca"},
    "ifca feddyn": {"method": "fedavg", "clustering": "ifca", "dynamic_alpha": "0.1"},
    "cfl": {"method": "fedavg", "clustering": "cfl", "cfl_first_round": 1},
    "feddyn heterofl": {"method": "heterofl", "dynamic_alpha": "0.1"},
    "feddyn holders": {"method": "depthfl", "dynamic_scaling": "holders"},
    "clipped": {"method": "heterofl", "guard_norm": "both"},
    "median": {"method": "fedavg", "guard_mean": "median"},
    "covered": {"method": "heterofl", "min_cover": 2},
    "private": {"method": "fedavg", "aggregation": "uniform", "dp_noise": 0.0, "guard_norm": "clip"},
    "dynamic tiers": {"method": "heterofl", "tier_assignment": "dynamic"},
    "adversarial": {"method": "splitmix", "adversarial": 0.5, "model": "cnn", "widths": "8, 8"},
    "resnet": {"method": "nefl", "model": "resnet", "widths": "4, 4", "blocks": "1, 2"},
    "resnet fedecover": {"method": "fedecover", "model": "resnet", "widths": "4, 4", "blocks": "1, 1"},
    "cnn scalefl": {"method": "scalefl", "model": "cnn", "widths": "8, 8, 8"},
    "sliced": {"method": "dropout", "slice_at": "server"},
}


DEFAULT = "default job"


def runs(*, default: bool) -> dict[str, Keys]:
    """Every run by name."""
    ranks: Keys = {"adapter": "lora:4", "tiers": "a:4, b:2, c:1", "model": "mlp", "widths": "16, 8"}
    found: dict[str, Keys] = {
        name: {"method": name, **(ranks if issubclass(method, RankMethod) else {})} for name, method in METHODS.items()
    }
    return found | MORE | ({DEFAULT: {}} if default else {})


def hash_of(path: Path) -> str:
    """Of the tensors of a file, by name; what else the file says does not count."""
    found = sha256()
    with safe_open(path, framework="np") as file:
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name)
            found.update(f"{name} {tensor.dtype} {tensor.shape}".encode() + tensor.tobytes())
    return found.hexdigest()[:16]


def _default_keys() -> dict[str, bool | int | float | str]:
    """The keys that the tests' tiny runs change, as the default job has them."""
    from server_app.config.resolve import defaults
    from tests.support import TINY

    every = defaults()
    return {key.replace("-", "_"): every[key] for key in TINY}


def _run(given: Options) -> int:
    """Print the table as JSON, or hold it against another."""
    known = json.loads(given.against.read_text()) if given.against else {}
    found, different = {}, []
    for name, keys in runs(default=given.default_job).items():
        if name not in given.parts and not (name == DEFAULT and given.default_job):
            continue
        with tempfile.TemporaryDirectory() as folder:
            options: dict[str, Any] = {"num_server_rounds": 3} | dict(keys)
            if name == DEFAULT:
                options = dict(_default_keys())
            found[name] = hash_of(play(Path(folder) / "run", **options).path / "model.safetensors")
        if known and known.get(name) != found[name]:
            different.append(name)
        print(f"{name}: {found[name]}{' DIFFERS' if name in different else ''}", file=sys.stderr, flush=True)
    print(json.dumps(found, indent=1))
    if known:
        print(f"{len(found) - len(different)} of {len(found)} equal", file=sys.stderr)
    return 1 if different else 0


TASK = Command(_run, parts=tuple(runs(default=False)), defaults={"against": None, "default_job": False})

if __name__ == "__main__":
    sys.exit(TASK(sys.argv[1:], "python -m benchmarks.probes.hashes", None))
