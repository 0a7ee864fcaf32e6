"""Which of several states fits this device best: the one with the lowest mean loss on its own training examples.

In evaluation mode and without augmentation, as IFCA (Ghosh et al., NeurIPS 2020, Algorithm 1) means it; static batch
norm takes its statistics from the same examples, never from what other clusters have seen. Ties go to the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, isnan

import torch
from flwr.app import Array
from torch import Tensor

from client_app.model_cache import LocalModel
from data import Split
from models.algebra.submodel import flatten
from models.evaluation import Score, batch_of, evaluate
from models.networks.build import layout, submodel
from models.statistics import estimate_statistics
from models.variants.cluster_states import packed_length, shared_names, trunk, unpack_states
from protocol import ClusterStates, PartRequest, decode


def received_states(request: PartRequest, clusters: ClusterStates, state: Array) -> list[Tensor]:
    """The states of several clusters one by one, each as a request for one cluster would bring it.

    Raises:
        WireError: the vector's length does not fit the plan and the number of clusters.
    """
    if request.sliced:
        part = submodel(request.network, request.plan.holding)
        shapes: Mapping[str, tuple[int, ...]] = {name: block.local_shape for name, block in part.items()}
        shared = shared_names(part, trunk(layout(request.network))) if clusters.shared else []
    else:
        shapes = layout(request.network).shapes
        shared = list(trunk(layout(request.network))) if clusters.shared else []
    flat = decode(state, packed_length(shapes, clusters.count, shared))
    if clusters.count == 1 or not shared:
        return list(flat.chunk(clusters.count))
    return [flatten(tensors) for tensors in unpack_states(flat, shapes, clusters.count, shared)]


def load_fitting(model: LocalModel, request: PartRequest, states: list[Tensor], examples: Split) -> int:
    """Load the state that fits the examples best, and return its number."""
    best, least = 0, inf
    for number, state in enumerate(states):
        model.load(request.network, request.plan, state, sliced=request.sliced)
        loss = score(model, examples, examples).loss
        if not isnan(loss) and loss < least:
            best, least = number, loss
    model.load(request.network, request.plan, states[best], sliced=request.sliced)
    return best


def score(model: LocalModel, examples: Split, trained_on: Split) -> Score:
    """Score what is loaded; statistics of static batch norm come from the device's training examples."""
    seen, scored = trained_on.to(model.device).held, examples.to(model.device)
    estimate_statistics(model.module, seen.split(batch_of(seen)))
    return evaluate(model.module, scored.held, scored.labels, task=model.task)


def fitting_the_test(
    model: LocalModel, request: PartRequest, states: list[Tensor], test: Split, trained_on: Split
) -> float:
    """Accuracy of the state with the lowest loss on the *test* examples: optimistic, and what IFCA's authors report."""
    scores = []
    for state in states:
        model.load(request.network, request.plan, state, sliced=request.sliced)
        scores.append(score(model, test, trained_on))
    return min(scores, key=lambda one: inf if isnan(one.loss) else one.loss).accuracy


def best_on_path(
    model: LocalModel, request: PartRequest, states: list[Tensor], test: Split, trained_on: Split
) -> dict[str, float]:
    """How the state does that this device would choose of those its cluster went through (CFL, §III-D).

    Chosen by accuracy on every other test example, the younger one on ties, and scored on the rest; the last state's
    score on that rest stands beside. Not by training examples: the last state was trained on them for longest.

    Returns:
        "accuracy-best-on-path" and "accuracy-end-of-path"; nothing where there is a single test example.
    """
    if len(test) < 2:
        return {}
    chosen_by, scored_on = (test.select(torch.arange(i, len(test), 2)) for i in (0, 1))
    found = []
    for state in states:
        model.load(request.network, request.plan, state, sliced=request.sliced)
        found.append([score(model, half, trained_on).accuracy for half in (chosen_by, scored_on)])
    best = max(range(len(found)), key=lambda i: (found[i][0], i))
    return {"accuracy-best-on-path": found[best][1], "accuracy-end-of-path": found[-1][1]}
