"""What this device is: its id, its tier and its data."""

from __future__ import annotations

import os
from collections.abc import Mapping

from flwr.app import Context

from client_app.allowed import known_codecs
from client_app.base import digest_of_base
from data import SOURCES, DataSettings, InputFacts, NodeData, is_local, load, node_data, summarise
from models.adversary import Attack
from models.errors import SettingError
from models.randomness import torch_generator
from models.registry import is_path
from protocol import AdversarialTraining, DataReply, Hello, HelloRequest, PartRequest, Scalar, WireError
from protocol.profile import AUTO, ProfileRequest

_DATA_ROOT = "data-root"
_KEPT = 4  # configurations; a process serves the nodes of one run, or of a few
_known: list[tuple[tuple[object, ...], Mapping[str, Scalar], DataSettings]] = []  # where, configuration, what it says


def node_id(context: Context) -> int:
    """Stable id of this device: the partition it holds. flwr's own node id is drawn anew in every run.

    Raises:
        SettingError: the node was started without one.
    """
    partition = context.node_config.get("partition-id")
    if isinstance(partition, bool) or not isinstance(partition, int):
        raise SettingError(
            "partition-id", partition, "a whole number, in the node config: --node-config 'partition-id=0'"
        )
    return partition


def settings_of(context: Context) -> DataSettings:
    """The data that this device uses: the run's settings, with the device's own data folder if it names one.

    Of a data set whose files are a machine's own, what is in such a folder is the device's: nothing of it is divided.

    Read once per process for the same configuration: every message brings it again.
    """
    config, root = context.run_config, context.node_config.get(_DATA_ROOT)
    where = (root, os.environ.get("FLOTILLA_DATA"), os.getcwd())
    for at, known, settings in _known:
        if at == where and known == config:
            return settings
    config = dict(config)
    if root is not None:
        config |= {_DATA_ROOT: root}
        if is_local(SOURCES[str(config.get("dataset", DataSettings.dataset))]):
            config["partition"] = "own"
    settings = DataSettings.from_config(config)
    if not is_path(settings.dataset):  # what a device's owner allows is looked up every time
        _known.insert(0, (where, config, settings))
        del _known[_KEPT:]
    return settings


def facts_in(text: str) -> InputFacts | None:
    """The facts of the task that a request brings, if it brings some.

    Raises:
        WireError: it is something else.
    """
    try:
        return InputFacts.from_json(text) if text else None
    except ValueError as error:
        raise WireError(f"facts: {error}") from None


def data_of(context: Context, facts: str = "") -> NodeData:
    """This device's examples (cached per process), numbered and normalised by a request's facts."""
    return node_data(settings_of(context), node_id(context), facts_in(facts))


def data_reply(context: Context) -> DataReply:
    """Sums over this device's training examples, from which the facts of the task are decided."""
    return DataReply(node=node_id(context), summary=summarise(settings_of(context)).to_json())


def hello(context: Context, request: HelloRequest) -> Hello:
    """What this device says of itself: id, examples, its labels if asked, and the tier that its node config tells.

    Where that is "auto", or everybody is to be measured, also what it measures of itself.

    Raises:
        WireError: it has no examples.
    """
    examples = data_of(context, request.facts)
    tier = str(context.node_config.get("tier", ""))
    found: Mapping[str, float] = {}
    if request.profile and (tier == AUTO or ProfileRequest.from_text(request.profile).everyone):
        from client_app.profile import figures  # what it needs is loaded where it is needed

        found = figures(request.profile, context)
    if not len(examples.train):
        raise WireError(f"node {node_id(context)} has 0 examples")
    return Hello(
        node=node_id(context),
        examples=len(examples.train),
        labels=examples.labels if request.labels else (),
        tokens=examples.train.tokens if request.tokens else (),
        tier=tier,
        figures=found,
        codecs=known_codecs(context),
        base="" if request.base is None else digest_of_base(request.base.network, request.base.seed, context),
    )


def attack_of(training: AdversarialTraining, request: PartRequest, context: Context) -> Attack:
    """How this device attacks its own inputs; what a pixel can be is read off the training images."""
    low, high = load(settings_of(context), facts_in(request.facts)).limits
    draws = torch_generator(request.seed, request.round_number, node_id(context), "attack")
    return Attack(epsilon=training.epsilon, steps=training.steps, low=low, high=high, draws=draws)
