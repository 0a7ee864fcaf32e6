"""Which devices our run drew, round by round, for a run of the released code that has the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.experiments.setting.plan import Extent
from benchmarks.experiments.setting.split import Place, in_their_order, strategy_of
from server_app.folder.files import replace_text
from server_app.folder.run_folder import read_metrics

FILE = "devices.txt"  # beside the other files of the released code


def write_devices(run: Path, place: Place, extent: Extent, seed: int) -> Path:
    """Write a line a round: the released code's numbers of the devices, in the order in which ours were drawn.

    Args:
        run: folder of our finished run.
        place: of the part's files.
        extent: how much of it was run.
        seed: of the run.
    """
    theirs = np.argsort(in_their_order(strategy_of(place, extent, seed)))
    rows = [" ".join(str(theirs[device]) for device in row["selected"]) for row in read_metrics(run)]
    file = place.folder / "reference" / FILE
    replace_text(file, "".join(f"{row}\n" for row in rows))
    return file
