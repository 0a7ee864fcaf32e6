"""A ClientApp of one's own that serves HeteroFL, with an optimiser, data and a model of one's own choice.

Four devices of two sizes, each with its share of the digits, in this process:

    python examples/own_client.py

In an app of your own, `client` is the ClientApp and `main` stands in the ServerApp (docs/clients.md).
"""

from __future__ import annotations

import torch
from flotilla.models import initial_state
from flotilla.strategies import HeteroFL, NetworkSpec, Settings, parse_tiers
from flwr.app import ArrayRecord, Context
from flwr.clientapp import ClientApp
from sklearn.datasets import load_digits
from torch import Tensor, nn

from flotilla.client import TrainTask, serve
from flotilla.local.grid import LocalGrid, contexts

DEVICES, ROUNDS = 4, 5


def data(context: Context) -> tuple[Tensor, Tensor]:
    """Every fourth picture, (N, 1, 8, 8) in [0, 1], and its label."""
    images, labels = load_digits(return_X_y=True)
    mine = slice(int(context.node_config["partition-id"]), None, DEVICES)
    return torch.from_numpy(images[mine] / 16).float().reshape(-1, 1, 8, 8), torch.from_numpy(labels[mine]).long()


def train(module: nn.Module, task: TrainTask, context: Context) -> float:
    """Train a part of the network with Adam, whatever the run says of SGD; returns the mean loss."""
    inputs, labels = data(context)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.005)
    losses = []
    for x, y in zip(inputs.split(task.batch_size), labels.split(task.batch_size), strict=True):
        loss, _ = task.loss(x, y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


client = serve(ClientApp(), train, data=data)


def main() -> None:
    """Run HeteroFL and print the training loss of every round."""
    settings = Settings(tiers=parse_tiers("a:1, b:1/4"), nodes=DEVICES)
    strategy = HeteroFL(NetworkSpec("mlp", (1, 8, 8), 10), settings)
    first = initial_state(strategy.network, torch.Generator().manual_seed(1))
    found = strategy.start(LocalGrid(client, contexts({}, DEVICES)), ArrayRecord(first), num_rounds=ROUNDS)
    for number, metrics in found.train_metrics_clientapp.items():
        print(f"round {number}: training loss {metrics['train-loss']:.3f}")


if __name__ == "__main__":
    main()
