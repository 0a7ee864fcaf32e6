"""Everything that contracts hold for: what is built in, and the plug-in package's."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import OF_ALL, OF_RANKS

LAB = "tests.plugins.my_lab"
# Rules for pairs of factors have much in common; they go with `make test-slow`.
EVERY_METHOD: list[Any] = [
    *OF_ALL,
    f"{LAB}.methods:FromOffset",
    *(pytest.param(name, marks=pytest.mark.slow) for name in OF_RANKS),
]
NETWORK = f"{LAB}.networks:separable"
