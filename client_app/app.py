"""The ClientApp: one function per message type."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client_app.allowed import check_names
from client_app.device import data_reply, hello
from client_app.handlers import answer_evaluate, answer_gradients, answer_losses, answer_statistics, answer_train
from client_app.mods import MODS, OURS, refuse_idle
from client_app.secure.masked import or_refusal
from client_app.secure.stages import add_stages
from protocol import (
    GRADIENT,
    MOMENTS,
    HelloRequest,
    LossRequest,
    PartRequest,
    StatisticsRequest,
    TrainRequest,
    keep_large_buffers,
    read_request,
)

keep_large_buffers()

app = refuse_idle(ClientApp(mods=[*OURS, *MODS]))


@app.query("hello")
def say_hello(message: Message, context: Context) -> Message:
    """Say who this device is."""
    request = HelloRequest.from_record(message.content)
    check_names(context.run_config)
    return Message(content=hello(context, request).to_record(), reply_to=message)


@app.query("facts")
def summarise_data(message: Message, context: Context) -> Message:
    """Say sums over this device's training examples, from which the facts of the task are decided."""
    HelloRequest.from_record(message.content)
    check_names(context.run_config)
    return Message(content=data_reply(context).to_record(), reply_to=message)


@app.query("statistics")
def gather_statistics(message: Message, context: Context) -> Message:
    """Estimate normalisation statistics of the part on this device's training examples."""
    request, state = read_request(StatisticsRequest, message.content)
    return Message(content=answer_statistics(request, state, context).to_record(MOMENTS), reply_to=message)


@app.query("losses")
def score_training_examples(message: Message, context: Context) -> Message:
    """Score the part on this device's own training examples, before anybody decides who trains."""
    request, state = read_request(LossRequest, message.content)
    return Message(content=answer_losses(request, state, context).to_record(), reply_to=message)


@app.query("gradients")
def differentiate(message: Message, context: Context) -> Message:
    """Reply with the gradient of the part's loss on this device's own training examples."""
    request, state = read_request(LossRequest, message.content)
    return Message(content=answer_gradients(request, state, context).to_record(GRADIENT), reply_to=message)


add_stages(app)


@app.train("part")
def train_part(message: Message, context: Context) -> Message:
    """Train the part and reply with the difference."""
    request, state = read_request(TrainRequest, message.content)
    if request.secure is None:
        content = answer_train(request, state, context).to_record()
    else:
        content = or_refusal(request.nonce, lambda: answer_train(request, state, context))
    return Message(content=content, reply_to=message)


@app.evaluate("part")
def evaluate_part(message: Message, context: Context) -> Message:
    """Score the part on this device's own test examples."""
    request, state = read_request(PartRequest, message.content)
    return Message(content=answer_evaluate(request, state, context).to_record(), reply_to=message)
