"""Whether this process could serve clients of a run, asked before it is given any."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from client_app.allowed import check_names
from data import DataSettings, load, node_data
from protocol import Scalar


def ready(config: Mapping[str, Scalar]) -> str:
    """Find what the configuration names, and the data.

    Args:
        config: the run's configuration.

    Returns:
        What the data are: machines that say the same divide the same examples.

    Raises:
        SettingError: something that the configuration names is not here.
    """
    check_names(config)
    settings = DataSettings.from_config(config)
    first = node_data(settings, 0).train
    labels = hashlib.sha256(first.labels.contiguous().numpy().tobytes()).hexdigest()
    return f"{len(load(settings).train_examples)} examples, {labels[:16]}"
