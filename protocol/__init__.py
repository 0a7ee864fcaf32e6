"""What crosses the wire between server and clients: typed requests and replies over Flower's records."""

from protocol.arrays import WireError, bytes_of, decode, encode, record_of, state_of
from protocol.memory import keep_large_buffers
from protocol.messages import (
    DIFFERENCE,
    EVALUATE,
    GRADIENT,
    GRADIENTS,
    HELLO,
    LOSSES,
    MOMENTS,
    STATE,
    STATISTICS,
    TRAIN,
    VERSION,
    Hello,
    LossRequest,
    NodeId,
    Objective,
    Optimiser,
    PartRequest,
    Reply,
    Scalar,
    TrainRequest,
    Work,
    read_loss_request,
    read_part_request,
    read_train_request,
)

__all__ = [
    "DIFFERENCE", "EVALUATE", "GRADIENT", "GRADIENTS", "HELLO", "LOSSES", "MOMENTS", "STATE", "STATISTICS", "TRAIN",
    "VERSION", "Hello", "LossRequest", "NodeId", "Objective", "Optimiser", "PartRequest", "Reply", "Scalar",
    "TrainRequest", "WireError", "Work", "bytes_of", "decode", "encode", "keep_large_buffers", "read_loss_request",
    "read_part_request", "read_train_request", "record_of", "state_of",
]  # fmt: skip
