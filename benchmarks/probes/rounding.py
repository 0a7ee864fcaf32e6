"""How far float32 takes a client's round from what exact arithmetic would come to, by each way of training.

Clients of Fashion-MNIST with label shares from Dirichlet(0.5) train one epoch of HeteroFL's network from its first
state, with the optimiser and the loss of docs/results.md: by backward passes of our own, by the loop over autograd,
and by that loop in float64. The error is the distance of a way's difference from that in float64, in lengths of the
latter.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from fractions import Fraction
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.document import table
from benchmarks.task import Command, Options
from client_app.fused_training import Learner, train_fused
from client_app.model_cache import LocalModel
from client_app.objectives.cross_entropy import absent_for
from client_app.training import train
from data import NodeData, Split, node_data
from models.algebra.plans import Plan
from models.algebra.submodel import flatten
from models.networks.build import build_part, initial_state, submodel
from models.randomness import torch_generator
from protocol import Scalar, Work
from server_app.config.resolve import RunConfig, resolve
from strategies.tiers.tier import HALVING

_KEYS: Mapping[str, Scalar] = {
    "dataset": "fashion-mnist",
    "partition": "dirichlet",
    "num-clients": 100,
    "local-test-fraction": 0.0,
    "method": "heterofl",
    "model": "cnn",
    "widths": "16, 32, 64, 128",
    "learning-rate": 0.1,
}
_WORK = Work(local_epochs=1, batch_size=32, threads=1)


class _Tier:
    """One tier's part, trained in three ways."""

    def __init__(self, config: RunConfig, rate: Fraction) -> None:
        self._network, self._plan = config.network, Plan(rate)
        draws = torch_generator(config.settings.seed, 0, "server", "initial state")
        self._start = submodel(self._network, self._plan).gather(initial_state(self._network, draws))
        self._flat = flatten(self._start)
        self._rule = config.settings.schedule.optimiser(1)
        self._model = LocalModel(self._network, self._plan, torch.device("cpu"))

    def errors(self, node: int, data: NodeData) -> tuple[float, float]:
        """Of a client, by passes of our own and by the loop."""
        absent = absent_for("masked-cross-entropy", self._network.classes, data.labels)
        exact = self._by_loop(node, data.train, absent, torch.float64)
        found = self._by_hand(node, data.train, absent), self._by_loop(node, data.train, absent, torch.float32)
        length = (exact - self._flat.double()).norm()
        ours, loops = (float((one.double() - exact).norm() / length) for one in found)
        return ours, loops

    def _by_hand(self, node: int, examples: Split, absent: Tensor | None) -> Tensor:
        flats, learner = self._flat[None].clone(), Learner(examples=examples, draws=_draws(node), absent=absent)
        train_fused(self._model.fused, flats, [learner], self._rule, _WORK, into=flats)
        return flats[0]

    def _by_loop(self, node: int, examples: Split, absent: Tensor | None, dtype: torch.dtype) -> Tensor:
        module = build_part(self._network, self._plan)
        module.load_state_dict(self._start)
        module.to(dtype)

        def objective(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            logits = module(x)
            return F.cross_entropy(logits if absent is None else logits.masked_fill(absent, 0.0), y), logits

        inputs = Split(examples.inputs.to(dtype), examples.labels)
        train(module, inputs, objective, self._rule, _WORK, draws=_draws(node), augmentation=None)
        return torch.cat([tensor.reshape(-1) for tensor in module.state_dict().values()])


def _draws(node: int) -> torch.Generator:
    return torch_generator(1, 1, node, "batches")


def errors(config: RunConfig, nodes: int) -> dict[str, list[tuple[float, float]]]:
    """Tier → of each of the first clients, the error by passes of our own and by the loop."""
    found = {}
    for tier in HALVING:
        assert isinstance(tier.rate, Fraction)
        part = _Tier(config, tier.rate)
        found[tier.name] = [part.errors(node, node_data(config.data, node)) for node in range(nodes)]
        print(f"tier {tier.name}", file=sys.stderr, flush=True)
    return found


def _run(given: Options) -> int:
    """Print the table."""
    torch.set_num_threads(1)
    config = resolve({**_KEYS, **({"data-root": given.data_root} if given.data_root else {})})
    cells = []
    for tier, pairs in errors(config, given.nodes).items():
        ours, loops = ([pair[i] for pair in pairs] for i in range(2))
        nearer = sum(one < other for one, other in pairs)
        cells.append([tier, f"{median(ours):.1e}", f"{median(loops):.1e}", f"{nearer} of {len(pairs)}"])
    heads = ["tier", "passes of our own, median error", "the loop", "clients nearer by passes of our own"]
    print(table(heads, cells, markdown=True))
    return 0


TASK = Command(_run, defaults={"nodes": 30, "data_root": ""})
