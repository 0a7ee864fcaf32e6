"""What waiting costs: rounds of everybody, of the first, and buffered ones, in time to accuracy on the mixed fleet.

The runs of `fleet` with fixed tiers: the same devices, draws and first state in every run of a seed. Rounds are as many
as have the replies of 500 requests, so buffered runs of five replies a round have four times as many as of twenty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from time import process_time
from unittest.mock import patch

import torch

from benchmarks.document import DOCS, replace_part
from benchmarks.experiments.fleet import DOCUMENT, LONG, SHORT, Course, draw, rows_of, run
from benchmarks.experiments.runs import Keys
from benchmarks.task import Command, Options
from models.algebra.average import PartialAverage
from protocol import keep_large_buffers
from strategies.round.buffer import Buffer

PICTURE = DOCS / "fleet-waiting.svg"
REPLIES = 20  # of a round that waits
_MORE = 1.5


def buffered(size: int) -> Keys:
    """Settings of rounds of so many replies."""
    return {"deadline": LONG, "aggregation-mode": "buffered", "buffer-size": size}


@contextmanager
def of_one_network() -> Iterator[None]:
    """FedBuff's rule as it is, Σ s n Δ / Σ n over all replies: who does not hold a coordinate counts in the divisor."""

    def discount(buffer: Buffer, average: PartialAverage) -> None:
        held = average.denominators()
        average.shrink({name: (one / buffer.whole).clamp(min=1e-9) for name, one in held.items()})

    with patch.object(Buffer, "discount", discount):
        yield


@dataclass(frozen=True, kw_only=True)
class Row:
    """A run: its settings, the replies of a round, the colour of its lines, and the rule of the average if not ours."""

    keys: Keys
    replies: int = REPLIES
    colour: str
    rule: Callable[[], AbstractContextManager[None]] = nullcontext


# By what it is called in the table.
RUNS: Mapping[str, Row] = {
    f"all of 20, {LONG:g} s": Row(keys={"deadline": LONG}, colour="#b0b0b0"),
    f"all of 20, {SHORT:g} s": Row(keys={"deadline": SHORT}, colour="#6baed6"),
    f"the first 20 of 30, {LONG:g} s": Row(keys={"deadline": LONG, "over-selection": _MORE}, colour="#f0a030"),
    "buffered, 5 by FedBuff's rule": Row(keys=buffered(5), replies=5, colour="#9467bd", rule=of_one_network),
    "buffered, 10": Row(keys=buffered(10), replies=10, colour="#2ca02c"),
    "buffered, 5": Row(keys=buffered(5), replies=5, colour="#08306b"),
}


def compare(seeds: Sequence[int], rounds: int) -> dict[str, list[Course]]:
    """Run everything, seed by seed; `rounds` are those of rounds that wait."""
    found: dict[str, list[Course]] = {name: [] for name in RUNS}
    for seed in seeds:
        began = process_time()
        for name, row in RUNS.items():
            with row.rule():
                length = rounds * REPLIES // row.replies
                found[name].append(run({**row.keys, "seed": seed, "num-server-rounds": length}))
        print(f"seed {seed}: {process_time() - began:.0f} CPU s", flush=True)
    return found


def text(found: Mapping[str, Sequence[Course]]) -> str:
    """The table, with what it is about."""
    (first, *_) = found.values()
    return (
        f"{len(first)} seeds; virtual seconds (mean, least to most over the seeds) until the global network's test"
        " accuracy is first reached; accuracies in % after the last round.\n\n"
        + rows_of(found, "replies, deadline")
        + f"\n\n![accuracy over virtual time, with and without waiting]({PICTURE.name})"
    )


def _run(options: Options) -> int:
    """Run, print, and write the table and the picture."""
    keep_large_buffers()
    torch.set_num_threads(1)
    found = compare(options.seeds, options.rounds)
    print(text(found))
    if options.write:
        replace_part(DOCUMENT, "waiting", text(found))
        draw(found, PICTURE, {name: row.colour for name, row in RUNS.items()})
    return 0


TASK = Command(_run, defaults={"seeds": [1, 2, 3], "rounds": 25, "write": False})
