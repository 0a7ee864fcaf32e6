"""`flotilla federation`: a run on SuperNodes of all tiers, as processes of this host."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from flotilla.deploy.deployment import Deployment
from flotilla.deploy.tls_keys import make_keys
from flotilla.own_app import own_app
from flotilla.settings import (
    Settings,
    SettingsError,
    Value,
    app_defaults,
    flatten,
    parse_run_config,
    prepare,
)
from flotilla.superlink.run import run_on
from flotilla.user_code import UserCodeError, extension_of
from server_app.config.resolve import resolve
from strategies.tiers.tier import Assignment, items_of


def prepare_federation(
    app_dir: Path,
    run_config: Sequence[str],
    *,
    nodes: int | None,
    run_dir: Path | None,
    resume: Path | None,
    code: Sequence[Path] = (),
) -> Settings:
    """Resolve the settings of a federation: as many clients as nodes, and by default one node for each tier.

    Raises:
        SettingsError: as `flotilla.settings.prepare`.
    """
    try:
        extension = extension_of(app_dir)
    except UserCodeError as error:
        raise SettingsError(str(error)) from None
    usual = app_defaults(app_dir) if extension is None else app_defaults(own_app()) | flatten(extension.config)
    tiers = {**usual, **parse_run_config(run_config)}.get("tiers", "")
    preferred: dict[str, Value] = {
        "num-clients": nodes or len(items_of(str(tiers))),
        "tier-assignment": "node",
    }
    return prepare(app_dir, run_config, run_dir=run_dir, resume=resume, nodes=nodes, preferred=preferred, code=code)


def run_federation(
    settings: Settings,
    keys: Path | None,
    *,
    insecure: bool = False,
    verbose: bool = False,
    superexec: bool = False,
    allow: str = "",
    data: Path | None = None,
) -> int:
    """Run an app on SuperNodes that are started for it.

    Args:
        settings: from `prepare_federation`.
        keys: folder for keys, filled where some are missing; None: keys that go with the run.
        insecure: neither TLS nor keys.
        verbose: show also what Flower says.
        superexec: ClientApps by Flower's own SuperExec, to compare with.
        allow: import paths that the nodes follow, as their node config says it: "my_lab.*, other.nets:make".
        data: folder with one for each node, by its number, which its node config names as its own data; None: none.

    Returns:
        0 when the run finished, 1 when it failed, 128 + the signal's number when it was stopped.
    """
    tiers, data = tiers_of(settings.config, settings.nodes), data.expanduser().absolute() if data else None
    how = "without TLS and keys" if insecure else "over TLS, a key per node"
    print(f"federation: {len(tiers)} nodes of tiers {', '.join(tiers)}, {how}", file=sys.stderr, flush=True)
    with TemporaryDirectory(prefix="flotilla-keys-") as own:
        folder = None if insecure else (keys or Path(own)).expanduser().absolute()
        if folder is not None:
            make_keys(folder, len(tiers))
        make = partial(Deployment, tiers=tiers, keys=folder, superexec=superexec, allow=allow, data=data)
        return run_on(make, settings, {}, verbose=verbose)


def tiers_of(config: Mapping[str, Value], nodes: int) -> list[str]:
    """The tier that each node is told: what a simulation with fixed tiers gives it, so that the two can be compared."""
    if "tiers" not in config:  # some other Flower app
        return [""] * nodes
    settings = resolve(dict(config), check_files=False).settings
    assignment = Assignment(
        "fixed", settings.tiers, proportions=settings.tier_proportions, nodes=settings.nodes, seed=settings.seed
    )
    return [assignment.tier_of(node, "", 1).name for node in range(nodes)]
