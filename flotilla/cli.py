"""The command `flotilla`.

Only what is needed to parse the command line is imported here; torch, ray and flwr come in when a run starts, so
that `flotilla --help` and a wrong setting answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flotilla import about
from flotilla.aftermath import aftermath
from flotilla.argument_help import with_argument_help
from flotilla.deploy import commands as deploy_commands
from flotilla.ending import ends_at_once
from flotilla.networks import commands as network_commands
from flotilla.own_app import APP_DIR, WITH, chosen_app
from flotilla.refusal import refuse
from flotilla.serving import commands as serving_commands
from flotilla.settings import Settings, SettingsError, prepare
from flotilla.studies import commands as study_commands
from flotilla.superlink.cluster import CLUSTER, CLUSTER_ENV, ClusterError, answering, cluster_of, said_again

app = typer.Typer(
    name="flotilla",
    help="Train one global network across devices of any size.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


class Engine(StrEnum):
    """What carries the messages: Flower's simulation (Ray) or the in-process engine; the results are the same."""

    flower = "flower"
    local = "local"


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version
        from platform import python_version

        others = ", ".join(f"{package} {version(package)}" for package in ("flwr", "torch"))
        print(f"flotilla {version('flotilla')} ({others}, Python {python_version()})")
        raise typer.Exit


@app.callback()
def _flotilla(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_version),
    ] = False,
) -> None:
    """Train one global network across devices of any size.

    flotilla run   trains with 20 simulated devices in five tiers, and leaves a run folder in runs/.
    flotilla predict and flotilla export   use the network of any tier of a run.
    flotilla methods, flotilla keys and flotilla explain KEY   say what can be set.
    """


_RUN_EPILOG = f"""[bold]Examples[/bold]

flotilla run

flotilla run -c 'method="fedrolex" dataset="fashion-mnist" num-clients=100 fraction-train=0.1'

flotilla run --engine local -c 'method="fjord" fjord-distillation=true'

flotilla run --resume runs/latest

[bold]Methods[/bold] (flotilla methods): {about.METHOD_NAMES}

[bold]Settings[/bold]: flotilla keys \\[WORD], flotilla explain KEY, docs/configuration.md

[bold]Exit codes[/bold]: 0 finished; 1 failed; 2 a wrong setting, nothing has run; 129, 130, 143 stopped by SIGHUP,
Ctrl-C, SIGTERM
"""


@app.command(epilog=_RUN_EPILOG)
def run(
    app_dir: Annotated[Path | None, APP_DIR] = None,
    run_config: Annotated[
        list[str] | None,
        typer.Option(
            "--run-config",
            "-c",
            metavar="'KEY=VALUE …'",
            help="Settings to change, as TOML: 'method=\"fedrolex\" num-server-rounds=5', or a .toml file; repeatable. "
            "`flotilla keys` lists them, `flotilla explain KEY` says all about one.",
        ),
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", help="Run folder to write; default runs/<time>-<method>-<dataset>.")
    ] = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="Continue the stopped run in this folder.")] = None,
    nodes: Annotated[
        int | None, typer.Option("--nodes", min=1, help="Simulated devices; default: the setting num-clients.")
    ] = None,
    engine: Annotated[Engine, typer.Option("--engine", help="Flower's simulation, or in process.")] = Engine.flower,
    processes: Annotated[
        int | None,
        typer.Option("--processes", min=0, help="Clients that train at once; default: one per core; 0: this process."),
    ] = None,
    gpus_per_client: Annotated[
        float | None,
        typer.Option("--gpus-per-client", min=0.0, help="GPU share per client; default 0.25 if there is a GPU."),
    ] = None,
    cluster: Annotated[str | None, CLUSTER] = None,
    cluster_env: Annotated[list[str] | None, CLUSTER_ENV] = None,
    own_code: Annotated[list[Path] | None, WITH] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show everything Flower and Ray say.")] = False,
) -> None:
    """Run a federated training and wait for it.

    Ctrl-C stops it and prints the command that goes on with it. No process and no temporary file is left behind.
    """
    try:
        asked = cluster is not None or bool(cluster_env)
        on = answering(cluster_of(cluster, cluster_env or (), engine=engine)) if asked else None
    except ClusterError as error:
        refuse(error)
    found: list[Settings] = []

    def checked() -> Settings:
        settings = _checked(
            app_dir,
            run_config,
            run_dir=run_dir,
            resume=resume,
            nodes=nodes,
            own_code=own_code,
            one_machine=on is None,
        )
        found.append(settings)
        return settings

    if engine is Engine.local:
        if processes != 0:
            from flotilla.local.start import prepare_workers

            prepare_workers()
        code = _run_local(checked(), processes)
    else:
        from flotilla.superlink.run import run_flower

        code = run_flower(
            checked,
            processes=processes or None,
            gpus_per_client=gpus_per_client,
            cluster=on,
            verbose=verbose,
        )
    again = ["flotilla", "run", *([str(app_dir)] if app_dir else []), *_given("--engine", engine, Engine.flower)]
    again += [word for path in own_code or () for word in ("--with", str(path))]
    again += [*_given("--cluster", cluster), *said_again(cluster_env or ())]
    aftermath(
        found[0].folder if found else None, code, [*again, *_given("--processes", processes), *_given("--nodes", nodes)]
    )
    raise typer.Exit(code)


def _checked(
    app_dir: Path | None,
    run_config: list[str] | None,
    *,
    run_dir: Path | None,
    resume: Path | None,
    nodes: int | None,
    own_code: list[Path] | None,
    one_machine: bool,
) -> Settings:
    """The settings of a run; what is wrong with them is said, and ends the command with 2."""
    try:
        settings = prepare(
            chosen_app(app_dir),
            run_config or [],
            run_dir=run_dir,
            resume=resume,
            nodes=nodes,
            code=own_code or (),
            one_machine=one_machine,
        )
    except SettingsError as error:
        refuse(error)
    if settings.config.get("tier-assignment") == "node":
        allowed = "fixed, dynamic or measured in a simulation, whose nodes have no node config to tell their tier"
        refuse(f"tier-assignment = 'node': allowed is {allowed}")
    if warning := settings.code.warning():
        print(f"flotilla: {warning}", file=sys.stderr)
    return settings


def _given(option: str, value: object, default: object = None) -> Sequence[str]:
    return () if value == default else (option, str(value))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, such as runs/latest.")],
    beside: Annotated[
        list[Path] | None,
        typer.Option("--beside", metavar="RUN", help="Show this run's tiers too in the picture of score against size."),
    ] = None,
) -> None:
    """Write report.html of a run anew, whatever state it is in.

    A run that was killed has no summary either: it is made of what the checkpoints hold, and the command says so.
    """
    from server_app.folder.settle import settle_ended
    from server_app.report.page import write_report

    for place in (folder, *(beside or ())):
        if not (place / "config.json").is_file():
            refuse(f"{place}: no run folder: it has no config.json")
    try:
        for line in settle_ended(folder):
            print(line)
        print(write_report(folder, beside or ()))
    except (OSError, ValueError) as error:
        print(f"flotilla: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


about.add_to(app)
network_commands.add_to(app)
serving_commands.add_to(app)
deploy_commands.add_to(app)
study_commands.add_to(app)


@app.command()
def profile(
    app_dir: Annotated[Path | None, APP_DIR] = None,
    run_config: Annotated[
        list[str] | None,
        typer.Option("--run-config", "-c", metavar="'KEY=VALUE …'", help="Settings to change, as `flotilla run`."),
    ] = None,
    examples: Annotated[
        int | None, typer.Option("--examples", min=1, help="Training examples here; default: as many as client 0 has.")
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            "--server", metavar="HOST:PORT", help="Measure the line to this SuperLink as well: round trip, up, down."
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            "--root-certificates",
            metavar="FILE",
            help="Certificates that vouch for the server: ca.crt of `flotilla tls-keys`; without it, no TLS.",
        ),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures.")] = None,
) -> None:
    """Measure this device: memory, cores, rates, seconds a step of every tier, and the tier that it would get.

    A run measures the same of a node whose node config says tier="auto". Exit codes: 0, or 2 for a wrong setting.
    """
    from flotilla.device.profile import profile as measured

    try:
        found = measured(chosen_app(app_dir), run_config or [], examples=examples, server=server, root=root)
    except SettingsError as error:
        refuse(error)
    if json_file is not None:
        json_file.write_text(found.to_json(), encoding="utf-8")
    print(found.text())


def _run_local(settings: Settings, processes: int | None) -> int:
    """Run in process, with the exit codes of a Flower run. A bug's traceback is for the user to see: 1."""
    from flotilla.local import run_local, run_other
    from flotilla.local.stopped import Stopped, signals_stop
    from flotilla.own_app import AppError, runs_ours

    try:
        with signals_stop():
            if not runs_ours(settings.app_dir):
                return run_other(settings.app_dir, dict(settings.config), settings.nodes)
            return run_local(dict(settings.config), settings.nodes, processes, settings.code.packages)
    except AppError as error:
        print(f"flotilla: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("flotilla: SIGINT: stopped the run", file=sys.stderr)
        return 130
    except Stopped as stopped:
        print(f"flotilla: {stopped}: stopped the run", file=sys.stderr)
        return 128 + stopped.signum


def main() -> None:
    """Entry point of the console script."""
    with ends_at_once():
        with_argument_help(app)(prog_name="flotilla")  # also as python -m flotilla: completion goes by the name


if __name__ == "__main__":
    main()
