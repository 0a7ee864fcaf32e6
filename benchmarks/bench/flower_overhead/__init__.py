"""A Flower app that is ours, but takes a pause after every round in which a floor can be measured.

`server` and `client` stand in the place of our two apps; `driver` starts them through `flotilla run` and listens.
"""

ADDRESS = "FLOTILLA_PROBE"  # environment variable: the socket on which the benchmark listens
