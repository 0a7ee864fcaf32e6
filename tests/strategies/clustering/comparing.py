"""A small network and updates for the tests of how clusters are found."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.algebra.plans import Plan
from models.algebra.submodel import Submodel
from models.networks.build import layout, submodel
from models.networks.complete import completed
from models.networks.spec import NetworkSpec
from protocol import NodeId
from strategies.clustering.updates import Updates

SPEC = completed(NetworkSpec("mlp", (1, 4, 4), 5, widths=(12, 8), norm="none"))

LAYOUT = layout(SPEC)


def updates_of(values: Any, members: list[NodeId] | None = None, held: Any = None, weights: Any = None) -> Updates:
    rows = np.asarray(values, np.float32)
    ids = list(range(len(rows))) if members is None else members
    return Updates(
        members=ids,
        values=rows,
        held=held,
        weights=np.ones(len(rows)) if weights is None else np.asarray(weights, float),
    )


def part_of(**plan: Any) -> Submodel:
    return submodel(SPEC, Plan(**plan))
