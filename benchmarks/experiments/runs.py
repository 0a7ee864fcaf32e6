"""Small runs in this process, for experiments that want many of them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from client_app.app import app
from flotilla.local.grid import Faults, LocalGrid, contexts
from protocol import Scalar
from server_app.config import resolve
from server_app.run import Run

Keys = dict[str, Scalar]


def metrics_of(keys: Mapping[str, Scalar], faults: Faults | None = None) -> list[dict[str, Any]]:
    """Run with these settings, also those that no configuration has; return the metrics, one object a round.

    Args:
        keys: the settings.
        faults: what becomes of replies on their way, if anything.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = resolve({}, overrides={**keys, "run-dir": f"{folder}/run"})
        Run(
            config, LocalGrid(app, contexts(config.flat, config.num_clients), faults), write=lambda line: None
        ).execute()
        lines = Path(f"{folder}/run/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def spread(values: Iterable[float], scale: float = 100.0, digits: int = 1) -> str:
    """Mean and, of several, standard deviation, multiplied by `scale`."""
    found = [scale * value for value in values]
    middle = f"{mean(found):.{digits}f}"
    return middle + (f" ± {stdev(found):.{digits}f}" if len(found) > 1 else "")
