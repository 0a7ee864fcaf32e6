"""Our whole network under other statistics of static batch norm than our own.

Ours are of the devices of level a, who alone can hold it, each device's examples passed through by themselves. The
released code passes all training examples through the server's network, mixed, ten at a time, and takes the mean over
batches of their means and of their unbiased variances.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.experiments.setting.plan import ARRAYS
from data import DataSettings, Split, load
from flotilla.serving.load import load as load_network
from models.evaluation import BATCH, evaluate
from models.norms.layers import Moments
from models.randomness import torch_generator
from models.statistics import estimate_statistics, static_norms

ALL, RELEASED_WAY = "all examples, pooled", "all examples, as the released code"
_TEN = 10  # examples of a batch there


class BatchMeans(Moments):
    """Means over batches of what is normalised: of means, and of unbiased variances."""

    def add(self, x_NCx: Tensor) -> None:
        """Add one batch of activations; `total` and `square` have sums over batches of means and of variances."""
        values = x_NCx.transpose(0, 1).flatten(1).double()
        self.count += 1
        self.total += values.mean(1)
        self.square += values.var(1)


@torch.no_grad()
def estimate_as_released(network: nn.Module, inputs: Tensor) -> None:
    """Give static batch norm the statistics that the released code would.

    Args:
        network: left in evaluation mode.
        inputs: mixed (N, C, H, W).
    """
    network.eval()
    layers = static_norms(network).values()
    sums = [BatchMeans(layer.weight.numel()) for layer in layers]
    for layer, one in zip(layers, sums, strict=True):
        layer.collector = one
    for batch in torch.split(inputs, _TEN):
        network(batch)
    for layer, one in zip(layers, sums, strict=True):
        layer.collector = None
        layer.statistics = ((one.total / one.count).float(), (one.square / one.count).float())


def under_others(run: Path, folder: Path, seed: int) -> dict[str, float]:
    """Accuracy on the test set by which statistics our run's whole network has.

    Args:
        run: folder of a finished run.
        folder: where its examples lie.
        seed: of the order in which they are mixed.
    """
    model = load_network(run)
    data = load(DataSettings(dataset=f"npz:{ARRAYS}", data_root=str(folder)), model.card.inputs)
    order = torch.randperm(len(data.train), generator=torch_generator(seed, 0, "server", "mixed"))
    mixed = data.train.inputs[order]
    found = {}
    for name in (ALL, RELEASED_WAY):
        if name == ALL:
            estimate_statistics(model.network, torch.split(mixed, BATCH))
        else:
            estimate_as_released(model.network, mixed)
        found[name] = _accuracy(model.network, data.test)
    return found


def _accuracy(network: nn.Module, test: Split) -> float:
    return evaluate(network, test.held, test.labels).accuracy
