"""What all scripts train: the job's network in plain PyTorch, its examples, and a loop where a library has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.peers.job import Job


class Flat(nn.Module):
    """Two convolutions, a pool, a hidden layer: images (N, C, H, W) → logits (N, classes)."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        channels, height, width = job.input_shape
        first, second, hidden = job.widths
        self.layers = nn.Sequential(
            nn.Conv2d(channels, first, 3),
            nn.ReLU(),
            nn.Conv2d(first, second, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(second * ((height - 4) // 2) * ((width - 4) // 2), hidden),
            nn.ReLU(),
            nn.Linear(hidden, job.classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) → logits (N, classes)."""
        logits: Tensor = self.layers(images)
        return logits


class Stages(nn.Module):
    """A convolution, a norm over the batch, ReLU and a pool, several times; then the mean over places.

    Norms keep no running statistics: a batch is normalised by itself, as in HeteroFL.
    """

    def __init__(self, job: Job) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = job.input_shape[0]
        for width in job.widths:
            layers += [
                nn.Conv2d(inputs, width, 3, padding=1),
                nn.BatchNorm2d(width, track_running_stats=False),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            inputs = width
        self.layers = nn.Sequential(*layers[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, job.classes))

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) → logits (N, classes)."""
        logits: Tensor = self.layers(images)
        return logits


def network_of(job: Job) -> nn.Module:
    """The job's network, from PyTorch's own initialisation with seed 1."""
    torch.manual_seed(1)
    return {"flat": Flat, "stages": Stages}[job.network](job)


def parameters_of(network: nn.Module) -> int:
    """Numbers that are trained."""
    return sum(weights.numel() for weights in network.parameters())


class Data:
    """A job's pictures as the files of a folder, mapped and not read.

    Args:
        folder: holds x_train.npy, y_train.npy, x_test.npy, y_test.npy; pictures [N, C, H, W] of bytes.
    """

    def __init__(self, folder: Path) -> None:
        self._arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("x_train", "y_train", "x_test", "y_test")
        }

    def client(self, number: int, examples: int) -> tuple[Tensor, Tensor]:
        """A client's images (N, C, H, W) of mean 0, and labels (N,)."""
        rows = slice(number * examples, (number + 1) * examples)
        return _tensors(self._arrays["x_train"][rows], self._arrays["y_train"][rows])

    def train(self) -> tuple[Tensor, Tensor]:
        """All clients' images and labels, one client after the other."""
        return _tensors(self._arrays["x_train"], self._arrays["y_train"])

    def test(self) -> tuple[Tensor, Tensor]:
        """Images and labels that nobody trains on."""
        return _tensors(self._arrays["x_test"], self._arrays["y_test"])


def _tensors(pixels: NDArray[Any], labels: NDArray[Any]) -> tuple[Tensor, Tensor]:
    images = torch.from_numpy(np.array(pixels)).float().div_(255).sub_(0.5).div_(0.25)
    return images, torch.from_numpy(np.array(labels))


def accuracy(network: nn.Module, data: Data) -> float:
    """Share of the test images that the network names right, in one batch."""
    images, labels = data.test()
    with torch.no_grad():
        return float((network(images).argmax(1) == labels).float().mean())


def optimiser_of(network: nn.Module, job: Job) -> torch.optim.SGD:
    """The job's rule."""
    return torch.optim.SGD(
        network.parameters(), lr=job.learning_rate, momentum=job.momentum, weight_decay=job.weight_decay
    )


def train(network: nn.Module, images: Tensor, labels: Tensor, job: Job) -> None:
    """A client's epochs, where a library leaves the loop to its user."""
    optimiser = optimiser_of(network, job)
    network.train()
    for _ in range(job.epochs):
        for rows in torch.randperm(len(labels)).split(job.batch_size):  # type: ignore[no-untyped-call]
            optimiser.zero_grad()
            loss = F.cross_entropy(network(images[rows]), labels[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            if job.clip_norm:
                nn.utils.clip_grad_norm_(network.parameters(), job.clip_norm)
            optimiser.step()
