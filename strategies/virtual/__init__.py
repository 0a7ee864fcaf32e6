"""A virtual fleet: devices that are told in a file, and a clock that runs by them instead of by the wall."""

from strategies.virtual.clock import Late, VirtualClock
from strategies.virtual.devices import BUNDLED, Device, VirtualFleet, read_fleet

__all__ = ["BUNDLED", "Device", "Late", "VirtualClock", "VirtualFleet", "read_fleet"]
