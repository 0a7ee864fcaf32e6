"""Whether this process could serve clients of a run, asked before it is given any."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch

from client_app.allowed import check_names
from data import DataSettings, load, share
from protocol import Scalar

_MOST = 64  # examples whose inputs are compared


def ready(config: Mapping[str, Scalar]) -> str:
    """Find what the configuration names, and the data.

    What the data are is told by the number of training examples, the labels of client 0's share, and the inputs of some
    of its examples: 64 at most, evenly spread, so that of pictures that are decoded on demand no more are decoded. They
    are compared as they are stored: what normalisation makes of them may differ in its last bits between CPUs.

    Args:
        config: the run's configuration.

    Returns:
        What the data are: machines that say the same divide the same examples.

    Raises:
        SettingError: something that the configuration names is not here.
    """
    check_names(config)
    settings = DataSettings.from_config(config)
    rows = torch.from_numpy(share(settings, 0))
    examples = load(settings).train_examples
    values, at = examples.held(rows[:: max(1, -(-len(rows) // _MOST))])
    inputs = values if at is None else values.index_select(0, at)
    told = hashlib.sha256()
    for part in (examples.labels[rows], inputs):
        told.update(f"{part.dtype} {tuple(part.shape)} ".encode())
        told.update(part.contiguous().numpy().tobytes())
    return f"{len(examples)} examples, {told.hexdigest()[:16]}"
