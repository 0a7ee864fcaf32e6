"""A network that peft has made ready: its own factors, on a frozen module of timm, trained by HeteroFL at two ranks.

What peft has frozen is no part of the state that is sent; the factors' rank is a width that HeteroFL finds and cuts.
Four devices of two sizes, each with its share of the digits, in this process (pip install 'flotilla[networks]' peft):

    python examples/peft_network.py

In an app of your own, `client` is the ClientApp and `main` stands in the ServerApp (docs/clients.md).
"""

from __future__ import annotations

import torch
from flotilla.models import initial_state
from flotilla.models.algebra.plans import Plan
from flotilla.models.networks.build import layout, submodel
from flotilla.models.networks.named import library
from flotilla.models.registry import following
from flotilla.strategies import HeteroFL, NetworkSpec, Settings, parse_tiers
from flwr.app import ArrayRecord, Context
from flwr.clientapp import ClientApp
from sklearn.datasets import load_digits
from torch import Tensor, nn

from flotilla.client import TrainTask, serve
from flotilla.local.grid import LocalGrid, contexts

DEVICES, ROUNDS, RANK = 4, 6, 8


def network(classes: int) -> nn.Module:
    """A small vision transformer with factors beside its linear layers; its head is trained whole."""
    timm, peft = library("timm", "peft_network"), library("peft", "peft_network")
    whole = timm.models.VisionTransformer(
        img_size=8, patch_size=2, in_chans=1, num_classes=classes, embed_dim=32, depth=2, num_heads=2
    )
    config = peft.LoraConfig(r=RANK, lora_alpha=16, target_modules=["qkv", "fc1", "fc2"], modules_to_save=["head"])
    made: nn.Module = peft.get_peft_model(whole, config).get_base_model()  # with the factors in it; takes one tensor
    return made


def data(context: Context) -> tuple[Tensor, Tensor]:
    """Every fourth picture, (N, 1, 8, 8) in [0, 1], and its label."""
    images, labels = load_digits(return_X_y=True)
    mine = slice(int(context.node_config["partition-id"]), None, DEVICES)
    return torch.from_numpy(images[mine] / 16).float().reshape(-1, 1, 8, 8), torch.from_numpy(labels[mine]).long()


def train(module: nn.Module, task: TrainTask, context: Context) -> float:
    """Train factors and head with Adam; returns the mean loss."""
    inputs, labels = data(context)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.01)
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
    """Run HeteroFL and print what is trained, and the training loss of every round."""
    with following(["peft_network.*", "__main__.*"]):
        settings = Settings(tiers=parse_tiers("a:1, b:1/4"), nodes=DEVICES)  # ranks 8 and 2
        strategy = HeteroFL(NetworkSpec("peft_network:network", (1, 8, 8), 10), settings)
        narrow = submodel(strategy.network, Plan(settings.tiers[-1].rate))
        for name, tensor in layout(strategy.network).tensors.items():
            print(f"{name}: {tensor.shape}, of the smaller devices {narrow[name].local_shape}")
        first = initial_state(strategy.network, torch.Generator().manual_seed(1))
        found = strategy.start(LocalGrid(client, contexts({}, DEVICES)), ArrayRecord(first), num_rounds=ROUNDS)
    for number, metrics in found.train_metrics_clientapp.items():
        print(f"round {number}: training loss {metrics['train-loss']:.3f}")


if __name__ == "__main__":
    main()
