"""Whether a round is scored and saved while devices already train in the next one.

Devices elsewhere have nothing to do while the server scores a round, saves it and writes its line, and what they are
asked next does not depend on any of that. So the next requests go out first, and the run's results are the same to the
last bit where they do not follow the wall's clock (as Oort by real seconds, measured tiers and `deadline-factor` do).
Two things are told later for it: a line of metrics, and to a device that a checkpoint is on the disk, so that it keeps
what it remembers of one more round.

A round waits for its own end as ever where that decides on the next one, or on who counts in it:

- the last round, and every round of a run that has a target or a patience;
- where rounds end at enough replies: the first are those that come first, and nobody would look for some time;
- on virtual devices, which gain nothing;
- where planning the next round waits for nodes, which may have left, are new, or are asked something before they train
  (`Pieces.wait_first`): what has ended is on the disk first;
- on a grid that is no deployment's: it computes on this machine, and needs the processor itself. A deployment says so
  of itself, by an attribute `computes_elsewhere` that is true.

A deployment's nodes may be on the server's machine too, as in `flotilla federation`. There a score shares the cores
with them. It keeps its number of threads all the same, since its sums depend on that, and takes longer than in turn.
"""

from __future__ import annotations

from copy import deepcopy

from flwr.serverapp import Grid

from server_app.config.resolve import RunConfig
from strategies import FlowerStrategy
from strategies.exchange.stateful import Saved


def sends_ahead(grid: Grid, config: RunConfig) -> bool:
    """Whether the rounds of a run, but for the last one, may be closed when the next one's requests have been sent."""
    settings, headline = config.settings, config.headline
    may_end = headline.target is not None or headline.patience > 0
    waits_for_all = settings.over_selection <= 1 and settings.fleet is None
    return bool(getattr(grid, "computes_elsewhere", False)) and waits_for_all and not may_end


def as_it_ended(strategy: FlowerStrategy) -> Saved:
    """The strategy's part of a checkpoint, to be written when the next round is planned.

    JSON is copied. Tensors are not: planning changes none of them (`Stateful.checkpoint`), and replies are taken later.
    """
    tensors, values = strategy.runner.checkpoint()
    return tensors, deepcopy(values)
