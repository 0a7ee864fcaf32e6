"""The run configuration: one closed set of flat keys, checked once, at the door."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path

from data import SOURCES, DataSettings, InputFacts, shards
from models.algebra.axes import Layout
from models.errors import SettingError
from models.losses import CLASSIFICATION
from models.networks.spec import NetworkSpec
from models.settings import read
from protocol import Scalar
from server_app.adversarial import Adversarial, Robustness, robustness
from server_app.base import AdaptedStart, adapted_start, based, keep_base
from server_app.config.build import adapter_in, build_network, build_settings
from server_app.config.catalogue import defaults, moved, option_keys, settings_by_key
from server_app.config.foreign import foreign_keys, keys_of
from server_app.config.sections import Model, Rounds, RunSettings
from server_app.folder.run_folder import RunFolder
from server_app.folder.start import Start, found_start
from server_app.folder.tracking import check_tracker
from server_app.metrics import Headline, check_installed, client_figure, headline
from server_app.task_facts import read_facts, save_facts
from strategies import METHODS, FlowerStrategy, Settings

__all__ = ["RunConfig", "defaults", "resolve"]

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
        "target",
        "patience",
        "tracker",
    }
)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A checked configuration.

    Attributes:
        flat: every key with its value, and what was overridden in Python, as the run folder records it.
        method: the strategy's class.
        options: the method's own settings.
        network: the global network, completed.
        data: data set and partition.
        settings: everything else that a strategy is told.
        rounds: number of the last round.
        evaluate_every, checkpoint_every: in rounds; the last round is always evaluated and saved.
        run_dir, resume: folders as given; "" is unset.
        start, start_new_heads: what a new run begins from; see `server_app.folder.start`.
        headline, more_metrics: what is measured, and when a run ends; see `server_app.metrics`.
        tracker: who gets every round's numbers; see `server_app.folder.tracking`.
        robust: how adversarial inputs come in.
        facts: of the task, once they are decided.
    """

    flat: dict[str, Scalar]
    method: type[FlowerStrategy]
    options: dict[str, Scalar]
    network: NetworkSpec
    data: DataSettings
    settings: Settings
    rounds: int
    evaluate_every: int
    checkpoint_every: int
    run_dir: str
    resume: str
    start: str
    start_new_heads: bool
    headline: Headline
    more_metrics: bool
    tracker: str
    robust: Robustness
    facts: InputFacts | None = None

    @property
    def num_clients(self) -> int:
        """Number of clients, and so of nodes that a simulation needs."""
        return self.data.num_clients

    @property
    def folder(self) -> Path:
        """The run folder: of the run to resume, as given, or named after the time, method and data set."""
        if self.resume:
            return Path(self.resume).expanduser().resolve()
        name = f"runs/{datetime.now():%Y%m%d-%H%M%S}-{self.flat['method']}-{self.flat['dataset']}".replace(":", ".")
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

    def is_scored(self, number: int) -> bool:
        """Whether a round is evaluated."""
        return number >= self.rounds or number % self.evaluate_every == 0

    def is_saved(self, number: int) -> bool:
        """Whether a round is saved; where a run ends before its last round, the one that ends it is saved too."""
        return number >= self.rounds or number % self.checkpoint_every == 0

    def found_start(self, layout: Layout) -> Start | AdaptedStart | None:
        """The file that a new run begins from, held against its network; None where it is drawn.

        Raises:
            SettingError: (key start) no such file, or of another network or other classes.
        """
        if not self.start:
            return None
        classes = () if self.facts is None else self.facts.classes
        if self.network.adapter is not None:
            return adapted_start(self.start, self.network, new_heads=self.start_new_heads, classes=classes)
        return found_start(self.start, layout, new_heads=self.start_new_heads, classes=classes)

    def on_base(self) -> RunConfig:
        """The same, with the base of its network found and held by this process.

        Raises:
            SettingError: (keys start, resume) it cannot be read.
        """
        resume = self.folder if self.resume else None
        return replace(self, network=based(self.network, seed=self.data.seed, start=self.start, resume=resume))

    def keep_inputs(self, folder: Path) -> None:
        """Write what the run works on into its folder: the facts of the task, and the base if there is one."""
        assert self.facts is not None
        save_facts(folder, self.facts)
        keep_base(self.network, folder)

    def for_task(self, facts: InputFacts) -> RunConfig:
        """The same, for a task of these facts, which requests carry: the network has its classes and inputs."""
        fitted = self
        if self.data.own and facts != self.facts:
            fitted = resolve({}, overrides=self.flat, check_files=False, facts=facts)
        metric = client_figure(fitted.headline, facts).asked
        return replace(fitted, facts=facts, settings=replace(fitted.settings, facts=facts.to_json(), metric=metric))

    def strategy(self) -> FlowerStrategy:
        """A new strategy of this configuration."""
        return self.method(self.network, self.settings, **self.options)


def resolve(
    given: Mapping[str, Scalar],
    *,
    overrides: Mapping[str, Scalar] | None = None,
    check_files: bool = True,
    facts: InputFacts | None = None,
) -> RunConfig:
    """Check a flat configuration; keys that are absent take their default.

    Args:
        given: flat keys as in pyproject's `[tool.flwr.app.config]` and `--run-config`.
        overrides: settings that only Python can set, and others, by key, such as {"oort-cutoff": 0.5} (for what
            `Oort(cutoff=0.5)` is); docs/configuration.md lists them. They are recorded with the keys. Clients in this
            process see them, those that Flower starts do not.
        check_files: also read the data set and divide it, and look at the run folder, so that missing data, too many
            clients or a folder in use show now.
        facts: of the task, if they have been decided; else those of the file that the configuration names, if it does.

    Raises:
        SettingError: names the key, the value and what is allowed.
    """
    flat = _flat(given, overrides or {})
    model, rounds, own = read(Model, flat), read(Rounds, flat), read(RunSettings, flat)
    foreign = foreign_keys(flat)
    method, names = METHODS[model.method], option_keys().get(model.method, {}) or keys_of("method", foreign)
    options = {option: flat[key] for option, key in names.items()}
    data = DataSettings.from_config(flat)
    robust = robustness(read(Adversarial, flat), data.dataset, images=SOURCES[data.dataset].images)
    settings = build_settings(flat, method)
    settings = replace(settings, work=robust.told(settings.work))
    if settings.fraction_evaluate and not data.local_test_fraction:
        raise SettingError("fraction-evaluate", settings.fraction_evaluate, "0 where local-test-fraction is 0")
    facts = facts or read_facts(data)
    if check_files and not data.own:
        shards(data)
    try:
        told = tuple((option, flat[key]) for option, key in keys_of("model", foreign).items())
        plain = replace(
            build_network(model, data, settings, method, told, facts=facts, adapter=adapter_in(flat)), dual=robust.dual
        )
        network = method.fitted(plain, settings, options)
        config = RunConfig(
            flat=flat,
            method=method,
            options=options,
            network=network,
            data=data,
            settings=settings,
            rounds=rounds.num_server_rounds,
            evaluate_every=own.evaluate_every,
            checkpoint_every=own.checkpoint_every,
            run_dir=own.run_dir,
            resume=own.resume,
            start=own.start,
            start_new_heads=own.start_new_heads,
            headline=headline(own.metric, own.target, own.patience, network.task),
            more_metrics=own.more_metrics,
            tracker=own.tracker,
            robust=robust,
            facts=facts,
        )
        if network.task != CLASSIFICATION:
            _check_task(config)
        strategy = config.strategy()
    except SettingError as error:
        if error.key in options:  # a strategy does not know its name here
            raise SettingError(names[error.key], error.value, error.allowed) from None
        raise
    except ValueError as error:  # a plan that leaves a layer empty
        allowed = f"rates and depths that the network can be cut at ({error})"
        raise SettingError("tiers", flat["tiers"], allowed) from None
    if config.more_metrics:
        check_installed("more-metrics", True)
    check_tracker(config.tracker)
    if config.start and settings.clustering.clustering == "ifca":
        raise SettingError("start", config.start, '"" with clustering = "ifca", whose clusters must begin unlike')
    if check_files and not config.resume and (facts is not None or data.known):
        config.found_start(strategy.runner.layout)
    if check_files and config.resume:
        RunFolder(config.folder).check_same(config.flat, config.free, {"num-server-rounds": config.fixed_length})
    elif check_files and config.run_dir:
        RunFolder(config.folder).check_new()
    return config


def _check_task(config: RunConfig) -> None:
    """Refuse what only classes have."""
    task = config.network.task
    for option, value in config.options.items():
        if option == "distillation" and value:
            raise SettingError(
                option, value, f"{type(value)()!r} where the task is {task}: outputs are no probabilities"
            )
    if config.robust.examples or config.robust.mix or config.settings.work.adversarial is not None:
        raise SettingError("adversarial", True, f"0 where the task is {task}")


def _flat(given: Mapping[str, Scalar], overrides: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Every key with its value, and what was overridden beside, each of its type and in its range."""
    theirs, ours = foreign_keys({**given, **overrides}), settings_by_key()
    for key in theirs.keys() & ours.keys():
        why = f"{key!r} is a key of Flotilla's; another name of the class or of its option makes another key"
        raise SettingError(theirs[key].named_by, theirs[key].name, f"one whose keys are its own; {why}")
    foreign = {key: one.setting for key, one in theirs.items()}
    known = {**foreign, **ours}
    found = defaults() | {key: setting.default for key, setting in foreign.items()}
    for key, value in (*given.items(), *overrides.items()):
        if key not in known or (known[key].advanced and key not in overrides):
            raise SettingError(key, value, moved(key) or _nearest(key, found))
        found[key] = known[key].read(key, value)
    return found


def _nearest(key: str, known: Mapping[str, Scalar]) -> str:
    close = get_close_matches(key, known, 3)
    meant = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    return f"one of the {len(known)} keys that `flotilla keys` and docs/configuration.md list{meant}"
