"""A ClientApp of somebody else's that serves Flotilla's strategies: `serve(app, train)`.

The user gives a function that trains an ordinary module on their data. What a request asks beside that is done here:
saying hello, slicing and loading the part, FedDyn's term, taking the difference and encoding it, and what a device
remembers. With `data`, everything else that a strategy may ask is answered as well: statistics of static batch norm,
losses and gradients for selectors, and with `test_data` evaluation. As in Flotilla's own ClientApp, only import
paths that the node config allows are followed (`client_app.allowed`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client_app.mods import MODS, refuse_idle
from client_app.secure.masked import or_refusal
from client_app.secure.stages import add_stages
from client_app.served_data import Data
from client_app.served_device import ServedDevice, TrainFunction, TrainTask
from protocol import (
    GRADIENT,
    MOMENTS,
    HelloRequest,
    LossRequest,
    PartRequest,
    StatisticsRequest,
    TrainRequest,
    read_request,
)

__all__ = ["Data", "TrainFunction", "TrainTask", "serve"]


def serve(
    app: ClientApp,
    train: TrainFunction,
    *,
    data: Data | None = None,
    test_data: Data | None = None,
    examples: Callable[[Context], int] | None = None,
    labels: Callable[[Context], tuple[int, ...]] | None = None,
) -> ClientApp:
    """Let a ClientApp answer what Flotilla's strategies ask.

    Args:
        app: without handlers for hello, statistics, losses, gradients, secure aggregation, `train.part` and
            `evaluate.part`.
        train: trains a module in place, any way it likes, and returns the mean training loss. The module is ordinary,
            but a part of the network: it must be trained as it is.
        data: this device's training inputs and labels, as the network takes them: int64 [N], or float32 [N, outputs]
            where the network's task is regression or multi-label; at least one. NumPy arrays and other integer types
            will do as well.
        test_data: likewise, of its own test; without it `evaluate.part` is refused.
        examples: their number, where `data` is not given.
        labels: those that this device has, where `data` is not given; asked for by methods that leave others alone.

    Returns:
        The app.

    Raises:
        TypeError: neither `data` nor `examples`, or the app has a mod of flwr that would not act.
    """
    if data is None and examples is None:
        raise TypeError("serve: data or examples must be given")
    refuse_idle(app)
    device = ServedDevice(data=data, test_data=test_data, count=examples, known_labels=labels)

    def hello(message: Message, context: Context) -> Message:
        request = HelloRequest.from_record(message.content)
        return Message(content=device.hello(request, context).to_record(), reply_to=message)

    def train_part(message: Message, context: Context) -> Message:
        request, state = read_request(TrainRequest, message.content)
        content = or_refusal(request.nonce, lambda: device.train(train, request, state, context))
        return Message(content=content, reply_to=message)

    def statistics(message: Message, context: Context) -> Message:
        request, state = read_request(StatisticsRequest, message.content)
        return Message(content=device.statistics(request, state, context).to_record(MOMENTS), reply_to=message)

    def losses(message: Message, context: Context) -> Message:
        request, state = read_request(LossRequest, message.content)
        return Message(content=device.losses(request, state, context).to_record(), reply_to=message)

    def gradients(message: Message, context: Context) -> Message:
        request, state = read_request(LossRequest, message.content)
        return Message(content=device.gradients(request, state, context).to_record(GRADIENT), reply_to=message)

    def evaluate_part(message: Message, context: Context) -> Message:
        request, state = read_request(PartRequest, message.content)
        return Message(content=device.evaluate(request, state, context).to_record(), reply_to=message)

    mods: list[Any] = [*MODS]
    app.query("hello", mods=mods)(hello)
    app.query("statistics", mods=mods)(statistics)
    app.query("losses", mods=mods)(losses)
    app.query("gradients", mods=mods)(gradients)
    add_stages(app, mods)
    app.train("part", mods=mods)(train_part)
    app.evaluate("part", mods=mods)(evaluate_part)
    return app
