"""From a command line to the settings of one run, checked before it begins.

The app's pyproject.toml names every setting and its default (`[tool.flwr.app.config]`). `--run-config` changes some,
the command line's own options change a few more, paths become absolute (neither half of a Flower app has the user's
working directory), and the app's own `server_app.config.resolve.resolve` has the last word on values.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from flotilla.nearest import either, nearest
from flotilla.own_app import own_app, runs_our_server
from flotilla.user_code import UserCode, UserCodeError, extension_of, make_importable, packages_of

Value = int | float | bool | str

# One `key=value`: a quoted string may hold spaces and, in double quotes, escaped quotes; anything else ends at a space.
_PAIR = re.compile(r"""([^\s='"]+)=("(?:[^"\\]|\\.)*"|'[^']*'|[^\s'"]+)(?=\s|$)""")
_PATH_KEYS = ("run-dir", "resume", "data-root", "client-state", "start")


class SettingsError(ValueError):
    """A command line that cannot become a run; its text is one line for the user."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One run, ready to start.

    Attributes:
        app_dir: the Flower app's folder, absolute.
        config: every setting, as the run will see it.
        overrides: the part of `config` that differs from the app's pyproject.toml.
        nodes: how many devices to simulate.
        log: where the full log is kept if the run fails.
        code: what goes with the run beside the app.
    """

    app_dir: Path
    config: Mapping[str, Value]
    overrides: Mapping[str, Value]
    nodes: int
    log: Path
    code: UserCode = UserCode()

    @property
    def folder(self) -> Path | None:
        """The run folder, absolute; None for an app that is not told one."""
        place = self.config.get("resume") or self.config.get("run-dir")
        return Path(str(place)) if place else None


def prepare(
    app_dir: Path,
    run_config: Sequence[str] = (),
    *,
    run_dir: Path | None = None,
    resume: Path | None = None,
    nodes: int | None = None,
    now: datetime | None = None,
    preferred: Mapping[str, Value] | None = None,
    code: Sequence[Path] = (),
    one_machine: bool = True,
) -> Settings:
    """Resolve and check everything that can be checked without starting a process.

    Args:
        app_dir: the Flower app's folder.
        run_config: what `--run-config` was given.
        run_dir: the run folder to write.
        resume: the run folder to go on with.
        nodes: devices to simulate; None is as many as the configuration has clients.
        now: time that an unnamed run folder is named after.
        preferred: what settings are where nobody says anything else, instead of the app's defaults.
        code: packages of the user's own that go with the run; see `flotilla.user_code`.
        one_machine: all devices are simulated here, so that they have what this machine has, and what they keep can be
            in a folder of the run; where they are not it goes with their messages, unless `client-state` names a
            folder that they share.

    Raises:
        SettingsError: one line saying what is wrong and what is allowed.
    """
    app_dir, preferred, packages = _with_code(app_dir.expanduser().resolve(), dict(preferred or {}), code)
    defaults = app_defaults(app_dir)
    given: dict[str, Value] = parse_run_config(run_config)
    for key, option in (("run-dir", run_dir), ("resume", resume)):
        if option is not None and key in given:
            raise SettingsError(f"{key} is given twice, as {given[key]!r} and as --{key} {option}")
        if option is not None:
            given[key] = str(option)
    recorded = _recorded(resume) if resume is not None else {}
    config = {**defaults, **preferred, **recorded, **given}
    own: Mapping[str, Any] = {} if config.keys() <= defaults.keys() else _foreign_keys(app_dir, config)
    check_keys({**preferred, **given}, {**defaults, **own}, moved if runs_our_server(app_dir) else None)
    config = {key: value for key, value in config.items() if key in defaults or key in own}
    if "run-dir" in config and not config["run-dir"] and not config.get("resume"):
        config["run-dir"] = str(free_name(Path.cwd() / "runs", run_name(config, now or datetime.now())))
    for key in _PATH_KEYS:
        if isinstance(value := config.get(key), str) and value:
            config[key] = str(Path(value).expanduser().absolute())
    if str(devices := config.get("simulated-devices", "")).endswith(".toml"):  # else it is one of the app's own
        config["simulated-devices"] = str(Path(str(devices)).expanduser().absolute())

    place = config.get("resume") or config.get("run-dir")
    if config.get("client-state") == "" and place and one_machine:  # so that a resumed run finds what its devices knew
        config["client-state"] = str(Path(str(place)) / "clients")

    clients, resolved = _resolve(app_dir, config, trains_here=one_machine)
    own = {key: value for key, value in resolved.items() if key not in defaults}
    config |= own
    if nodes is not None and nodes > clients:
        raise SettingsError(
            f"nodes = {nodes}: allowed is at most num-clients ({clients}); each node needs a share of data"
        )
    overrides = {key: value for key, value in config.items() if defaults.get(key) != value}
    log = Path(f"{place}.log") if place else Path.cwd() / "flotilla.log"
    return Settings(
        app_dir=app_dir,
        config=config,
        overrides=overrides,
        nodes=nodes or clients,
        log=log,
        code=UserCode(packages, own),
    )


def _with_code(
    app_dir: Path, preferred: dict[str, Value], paths: Sequence[Path]
) -> tuple[Path, dict[str, Value], dict[str, Path]]:
    """The app, its preferred settings and the packages that go with it; these can be imported from now on."""
    try:
        if (extension := extension_of(app_dir)) is not None:
            app_dir = own_app()
            preferred = flatten(extension.config) | preferred
            paths = [*extension.packages, *paths]
        packages = packages_of(paths, app_dir)
    except UserCodeError as error:
        raise SettingsError(str(error)) from None
    make_importable(packages)
    return app_dir, preferred, packages


def _recorded(resume: Path) -> dict[str, Value]:
    """Read the settings of the run to go on with, so that they need not be repeated; its folder is given anew."""
    path = resume.expanduser() / "config.json"
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))["config"]
        return {key: value for key, value in recorded.items() if key not in ("run-dir", "resume")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # the app says what is wrong with the folder


def app_defaults(app_dir: Path) -> dict[str, Value]:
    """Read the settings a Flower app declares in its pyproject.toml, nested tables flattened to `a.b`."""
    path = app_dir / "pyproject.toml"
    try:
        project = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise SettingsError(f"{app_dir}: no pyproject.toml there, so it is not the folder of a Flower app") from None
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: {error}") from None
    flower = project.get("tool", {}).get("flwr", {}).get("app")
    if flower is None:
        raise SettingsError(f"{path}: no [tool.flwr.app] in it, so it is not a Flower app")
    return flatten(flower.get("config", {}))


def values_in(app_dir: Path) -> dict[str, Value]:
    """What the settings of a run in this folder are where nobody says anything else; its packages can be imported.

    Args:
        app_dir: a Flower app, or a folder that says what differs from Flotilla's own.
    """
    app_dir, preferred, _ = _with_code(app_dir, {}, ())
    return app_defaults(app_dir) | preferred


def parse_run_config(texts: Iterable[str]) -> dict[str, Value]:
    """Read `--run-config` as flwr does (TOML pairs, or one .toml file), but refuse what flwr silently drops.

    flwr searches for pairs and ignores the text between them, so `method = "x"` or a lost quote changes nothing and
    the run trains with the defaults.
    """
    texts = [text for text in texts if text.strip()]
    files = [text for text in texts if text.strip().endswith(".toml") and "=" not in text]
    if files:
        if len(texts) > 1:
            raise SettingsError("run-config: give either one .toml file or key=value pairs, not both")
        path = Path(files[0].strip()).expanduser()
        try:
            return flatten(tomllib.loads(path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"run-config: cannot read {path}: {error}") from None
    values: dict[str, Value] = {}
    for text in texts:
        at = 0
        for match in _PAIR.finditer(text):
            _only_space(text[at : match.start()])
            at = match.end()
            key, value = match[1], _value(match[1], match[2])
            if key in values:
                raise SettingsError(f"run-config: {key} is given twice, as {values[key]!r} and as {value!r}")
            values[key] = value
        _only_space(text[at:])
    return values


def _only_space(text: str) -> None:
    if rest := text.strip():
        raise SettingsError(f"run-config: cannot read {rest!r}: allowed is key=value pairs, such as batch-size=10")


def _value(key: str, text: str) -> Value:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        if text.lower() in ("true", "false"):
            raise SettingsError(f"run-config: {key} = {text}: booleans are true or false, in small letters") from None
        hint = f"""a string needs quotes: '{key}="{text}"'""" if re.fullmatch(r"[\w./~-]+", text) else "it is not TOML"
        raise SettingsError(f"run-config: {key} = {text}: {hint}") from None
    return _scalar(key, value)


def _scalar(key: str, value: Any) -> Value:
    if not isinstance(value, (bool, int, float, str)):
        raise SettingsError(f"{key} = {value!r}: allowed is an integer, a float, true or false, or a string")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise SettingsError(f"{key} = {value!r}: allowed is an integer in 64 bits ({-(2**63)} to {2**63 - 1})")
    return value


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Value]:
    """Nested tables as one flat mapping with dotted keys, which is how Flower hands them to the app."""
    flat: dict[str, Value] = {}
    for name, value in table.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            flat.update(flatten(value, f"{key}."))
        else:
            flat[key] = _scalar(key, value)
    return flat


def check_keys(
    given: Mapping[str, Value], known: Mapping[str, Value], moved: Callable[[str], str] | None = None
) -> None:
    """Refuse a key the app does not have, naming the likely ones, or where it is (`moved`; None: another app)."""
    for key, value in given.items():
        if key not in known:
            near = nearest(key, known)
            there = "`flotilla keys` lists all" if moved else f"this app has {', '.join(known) or 'none'}"
            meant = (moved(key) if moved else "") or (f"did you mean {either(near)}? " if near else "") + there
            raise SettingsError(f"{key} = {value!r}: no such setting; {meant}")


def moved(key: str) -> str:
    """Where one of Flotilla's keys is that a configuration does not have; see `server_app.config.catalogue`."""
    from server_app.config.catalogue import moved as found

    return found(key)


def run_name(config: Mapping[str, Value], now: datetime) -> str:
    """`<date>-<time>-<method>-<data set>`, without what a folder name can't hold."""
    parts = [now.strftime("%Y%m%d-%H%M%S"), *(str(config[key]) for key in ("method", "dataset") if config.get(key))]
    return re.sub(r"[^\w.-]+", "_", "-".join(parts))


def free_name(parent: Path, name: str) -> Path:
    """`parent/name`, or with -2, -3, … where that exists (two runs in one second)."""
    path, count = parent / name, 1
    while path.exists():
        count += 1
        path = parent / f"{name}-{count}"
    return path


def _resolve(app_dir: Path, config: Mapping[str, Value], *, trains_here: bool) -> tuple[int, Mapping[str, Value]]:
    """Let the app check its settings; return how many clients it wants, and every setting with its value."""
    if not runs_our_server(app_dir):  # some other Flower app: nothing to ask
        clients = config.get("num-clients", 2)
        return (clients if isinstance(clients, int) and clients > 0 else 2), {}
    resolve = _imported(app_dir, "server_app.config.resolve").resolve
    try:
        resolved = resolve(dict(config))
        if trains_here:
            _imported(app_dir, "models.device").device_named(resolved.settings.work.device)
    except ValueError as error:  # models.errors.SettingError is one
        raise SettingsError(" ".join(str(error).split())) from None
    return int(resolved.num_clients), resolved.flat


def _foreign_keys(app_dir: Path, config: Mapping[str, Value]) -> Mapping[str, Any]:
    """The keys that there are beside the app's own, since the configuration names what is not built in."""
    if not runs_our_server(app_dir):
        return {}
    try:
        found: Mapping[str, Any] = _imported(app_dir, "server_app.config.foreign").foreign_keys(config)
    except ValueError as error:
        raise SettingsError(" ".join(str(error).split())) from None
    return found


def _imported(app_dir: Path, name: str) -> Any:
    """A module of the app: its folder may not be the one that is installed, and it is its own check that counts."""
    sys.path.insert(0, str(app_dir))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(app_dir))
