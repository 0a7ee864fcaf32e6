"""Everything that contracts hold for: what is built in, and the plug-in package's."""

from __future__ import annotations

from strategies import METHODS

LAB = "tests.plugins.my_lab"
EVERY_METHOD = [*METHODS, f"{LAB}.methods:FromOffset"]
NETWORK = f"{LAB}.networks:separable"
