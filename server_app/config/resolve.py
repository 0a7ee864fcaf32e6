"""The run configuration: one closed set of flat keys, checked once, at the door."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from data import SOURCES, DataSettings, shards
from models.errors import SettingError
from models.networks.spec import NetworkSpec
from protocol import Scalar
from server_app.adversarial import Robustness, robustness
from server_app.config.build import network_of, settings_of
from server_app.config.schema import checked, defaults, method_keys
from server_app.folder.run_folder import RunFolder
from strategies import METHODS, PartialStrategy, Settings

__all__ = ["RunConfig", "defaults", "method_keys", "resolve"]

# A resumed run may differ in these from the run it continues; in nothing else.
FREE = frozenset(
    {
        "num-server-rounds",
        "run-dir",
        "resume",
        "data-root",
        "node-wait",
        "deadline",
        "checkpoint-every",
        "client-state",
    }
)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A checked configuration.

    Attributes:
        flat: every key with its value, as the run folder records it.
        method: the strategy's class.
        options: the method's own settings.
        network: the global network, completed.
        data: data set and partition.
        settings: everything else that a strategy is told.
        rounds: number of the last round.
        evaluate_every, checkpoint_every: in rounds; the last round is always evaluated and saved.
        run_dir, resume: folders as given; "" is unset.
        robust: how adversarial inputs come in.
    """

    flat: dict[str, Scalar]
    method: type[PartialStrategy]
    options: dict[str, Scalar]
    network: NetworkSpec
    data: DataSettings
    settings: Settings
    rounds: int
    evaluate_every: int
    checkpoint_every: int
    run_dir: str
    resume: str
    robust: Robustness

    @property
    def num_clients(self) -> int:
        """Number of clients, and so of nodes that a simulation needs."""
        return self.data.num_clients

    @property
    def folder(self) -> Path:
        """The run folder: of the run to resume, as given, or named after the time, method and data set."""
        if self.resume:
            return Path(self.resume).expanduser().resolve()
        name = f"runs/{datetime.now():%Y%m%d-%H%M%S}-{self.flat['method']}-{self.flat['dataset']}"
        return Path(self.run_dir or name).expanduser().absolute()

    @property
    def free(self) -> frozenset[str]:
        """Keys in which a resumed run may differ from the run that it continues."""
        return FREE - ({"num-server-rounds"} if self.fixed_length else set())

    @property
    def fixed_length(self) -> str:
        """Why a resumed run must have the same number of rounds, and what works instead; "" where it need not."""
        anew = "a new run of as many rounds works"
        if self.settings.schedule.kind == "cosine":  # another length would be another schedule
            works = 'as does any other learning-rate-schedule, such as "constant", in a run that has it from the start'
            return f"the cosine of the learning rate falls over the whole run; {anew}, {works}"
        if self.method.by_length(self.options):
            return f"by its options {self.flat['method']} trains by shares of the whole run; {anew}"
        return ""

    def strategy(self) -> PartialStrategy:
        """A new strategy of this configuration."""
        return self.method(self.network, self.settings, **self.options)


def resolve(given: Mapping[str, Scalar], *, check_files: bool = True) -> RunConfig:
    """Check a flat configuration; keys that are absent take their default.

    Args:
        given: flat keys as in pyproject's `[tool.flwr.app.config]` and `--run-config`.
        check_files: also read the data set and divide it, and look at the run folder, so that missing data, too many
            clients or a folder in use show now.

    Raises:
        SettingError: names the key, the value and what is allowed.
    """
    own = method_keys()
    keys = checked({key: value for key, value in given.items() if key not in own})
    method = METHODS[keys.method]
    values = {
        key: METHODS[name].OPTIONS[own_name].read(key, given.get(key, default))
        for key, (name, own_name, default) in own.items()
    }
    options = {own_name: values[key] for key, (name, own_name, _) in own.items() if name == keys.method}
    flat: dict[str, Scalar] = {**keys.model_dump(by_alias=True), **values}
    data = DataSettings.from_config(flat)
    robust = robustness(flat, images=SOURCES[data.dataset].images)
    settings = settings_of(keys, method)
    settings = replace(settings, work=robust.told(settings.work))
    if keys.fraction_evaluate and not keys.local_test_fraction:
        raise SettingError("fraction-evaluate", keys.fraction_evaluate, "0 where local-test-fraction is 0")
    if check_files:
        shards(data)
    try:
        plain = replace(network_of(keys, data, settings, method), dual=robust.dual)
        network = method.fitted(plain, settings, options)
        config = RunConfig(
            flat=flat,
            method=method,
            options=options,
            network=network,
            data=data,
            settings=settings,
            rounds=keys.num_server_rounds,
            evaluate_every=keys.evaluate_every,
            checkpoint_every=keys.checkpoint_every,
            run_dir=keys.run_dir,
            resume=keys.resume,
            robust=robust,
        )
        config.strategy()
    except SettingError as error:
        if error.key in options:  # a strategy does not know its name here
            raise SettingError(f"{keys.method}-{error.key}", error.value, error.allowed) from None
        raise
    except ValueError as error:  # a plan that leaves a layer empty
        raise SettingError("tiers", keys.tiers, f"rates and depths that the network can be cut at ({error})") from None
    if check_files and config.resume:
        RunFolder(config.folder).check_same(config.flat, config.free, {"num-server-rounds": config.fixed_length})
    elif check_files and config.run_dir:
        RunFolder(config.folder).check_new()
    return config
