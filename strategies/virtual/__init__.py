"""A virtual fleet: devices that are told in a file, and a clock that runs by them instead of by the wall."""
