"""Libraries that take turns as they should, or do not: run as `python -m tests.benchmarks.peers.fakes HOW`."""

from __future__ import annotations

import sys

from benchmarks.peers.scripts import seat


def main(how: str) -> None:
    """Do as many rounds as asked, each with its steps; HOW says what goes wrong."""
    job = seat.job()
    if how == "dies":
        raise SystemExit("no such library")
    taken = seat.Seat()
    taken.ready(job.parameters + (how == "other-network"), "numpy", note="a fake")
    while taken.left:
        if how == "ends" and taken.left == 1:
            raise SystemExit("out of rounds")
        seat.counter().add(steps=job.steps - (how == "fewer-steps"), down=1000, up=500)
        if how == "leaves" and taken.left == 2:
            taken._say(ended=True)
            raise SystemExit("gone between two rounds")
        taken.ended()
    taken.done(0.75)


if __name__ == "__main__":
    main(sys.argv[1])
