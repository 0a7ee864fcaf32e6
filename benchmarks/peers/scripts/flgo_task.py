"""What FLGo copies as the configuration of a benchmark: the data, and the network."""

from __future__ import annotations

from torch import nn
from torch.utils.data import TensorDataset

from benchmarks.peers.scripts import plain, seat

_data = plain.Data(seat.data_folder())
train_data = TensorDataset(*_data.train())
test_data = TensorDataset(*_data.test())


def get_model() -> nn.Module:
    """The network that all begin with."""
    return plain.network_of(seat.job())
