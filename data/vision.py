"""torchvision's data sets, which are imported when they are first asked for."""

from __future__ import annotations

from functools import cache
from types import ModuleType

from models.vision_library import torchvision_part


@cache
def vision_datasets() -> ModuleType:
    """Return `torchvision.datasets`; see `torchvision_part`.

    Raises:
        ModuleNotFoundError: torchvision is not installed.
    """
    return torchvision_part("datasets")
