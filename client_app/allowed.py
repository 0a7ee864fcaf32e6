"""Which import paths a device follows: those that its owner allows, whoever names them.

A run may name code by import path: a network, a data set, a codec, an objective. A device in a deployment follows what
its node config allows, `allow="my_lab.*, other.nets:make"`; without that, none. What is built in and what installed
packages offer by entry point needs no leave: whoever installed them has given it. In a simulation, on the user's own
machine, everything is followed.

This is the app's own rule, for runs of an app that the device trusts. It does not hold who can change the app itself:
a bundle is code, and which bundles a SuperNode runs is Flower's to decide (`--trusted-entities`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from flwr.app import Context

from data import SOURCES
from models.networks.registry import NETWORKS
from models.registry import is_path
from protocol import Scalar
from protocol.codecs import CODECS

KEY = "allow"  # in the node config


def allowed(context: Context) -> list[str]:
    """The patterns of import paths that this device follows."""
    said = context.node_config.get(KEY)
    if said is None:
        return ["*"] if _simulated() else []
    return [pattern.strip() for pattern in str(said).split(",") if pattern.strip()]


def check_names(config: Mapping[str, Scalar]) -> None:
    """See that this device knows and may load what the run's configuration names.

    Raises:
        SettingError: it does not, or must not; says where it looked or what is allowed.
    """
    for key, registry in (("model", NETWORKS), ("dataset", SOURCES), ("codec", CODECS), ("codec-down", CODECS)):
        if key in config:
            registry[str(config[key])]


def known_codecs(context: Context) -> tuple[str, ...]:
    """The codecs that this device has, and the run's where it is an import path.

    Raises:
        SettingError: it is one that this device does not follow, or that leads to no codec.
    """
    wanted = str(context.run_config.get("codec", ""))
    if not is_path(wanted):
        return tuple(CODECS.names())
    CODECS[wanted]  # loaded here, so that a hello offers only what there is
    return (*CODECS.names(), wanted)


def _simulated() -> bool:
    """Whether this process is one of Flower's simulation, which runs ClientApps in Ray's workers."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())
