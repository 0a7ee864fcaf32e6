from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

# Two busy cores: time says nothing about an example, and a layout takes a while to draw.
settings.register_profile("models", deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("models")


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """Tensors this small lose time to a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
