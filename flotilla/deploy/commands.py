"""The commands around a deployed federation: `federation`, `tls-keys`, `register`, `connect`, `access`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from flotilla.aftermath import aftermath
from flotilla.own_app import APP_DIR, WITH, chosen_app
from flotilla.refusal import refuse
from flotilla.settings import SettingsError

_KEYS = typer.Option("--keys", help="Folder of keys, made where missing; default: keys that go with the run.")


def federation(
    app_dir: Annotated[Path | None, APP_DIR] = None,
    run_config: Annotated[
        list[str] | None,
        typer.Option("--run-config", "-c", metavar="'KEY=VALUE …'", help="Settings to change, as `flotilla run`."),
    ] = None,
    nodes: Annotated[int | None, typer.Option("--nodes", min=2, help="SuperNodes; default: one for each tier.")] = None,
    keys: Annotated[Path | None, _KEYS] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Neither TLS nor keys: for a first look.")] = False,
    run_dir: Annotated[Path | None, typer.Option("--run-dir", help="Run folder to write.")] = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="Continue the stopped run in this folder.")] = None,
    own_code: Annotated[list[Path] | None, WITH] = None,
    allow: Annotated[
        str,
        typer.Option(
            "--allow",
            metavar="'my_lab.*'",
            help="Import paths that the nodes follow where the run names them; default: none.",
        ),
    ] = "",
    node_data: Annotated[
        Path | None,
        typer.Option("--node-data", help="Folder with one for each node (0, 1, …): the data that it owns."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show everything Flower says.")] = False,
) -> None:
    """Run a training on real SuperNodes, as processes of this machine.

    SuperLink, ServerApp and one SuperNode for each client, over TLS with a key per node. A part that dies is started
    again. Exit codes are those of `flotilla run`, and nothing is left behind.
    """
    from flotilla.deploy.federation import prepare_federation, run_federation

    try:
        settings = prepare_federation(
            chosen_app(app_dir), run_config or [], nodes=nodes, run_dir=run_dir, resume=resume, code=own_code or ()
        )
    except SettingsError as error:
        refuse(error)
    if warning := settings.code.warning():
        print(f"flotilla: {warning}", file=sys.stderr)
    code = run_federation(settings, keys, insecure=insecure, verbose=verbose, allow=allow, data=node_data)
    again = ["flotilla", "federation", *([str(app_dir)] if app_dir else []), *(["--insecure"] if insecure else [])]
    again += [word for path in own_code or () for word in ("--with", str(path))] + (["--allow", allow] if allow else [])
    again += ["--node-data", str(node_data)] if node_data else []
    aftermath(settings.folder, code, [*again, *(["--keys", str(keys)] if keys else [])])
    raise typer.Exit(code)


def tls_keys(
    folder: Annotated[Path, typer.Argument(help="Where to; what exists there stays as it is.")] = Path("keys"),
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Number of nodes.")] = 5,
    host: Annotated[
        list[str] | None,
        typer.Option("--host", help="Name or address at which nodes reach the proxy; repeatable."),
    ] = None,
    owner: Annotated[
        int | None, typer.Option("--owner", help="User id of the federation's processes; 49999 in flwr's images.")
    ] = None,
) -> None:
    """Make the keys of a federation: an authority, the SuperLink's and the proxy's certificates, keys for each node."""
    from flotilla.deploy.tls_keys import make_keys

    made = make_keys(folder, nodes, host or [], owner)
    print(f"{folder}: {len(made)} files made; ca.key signs new ones: keep it elsewhere")


def register(
    folder: Annotated[Path, typer.Argument(help="Folder of keys.")] = Path("keys"),
    superlink: Annotated[str, typer.Option("--superlink", help="Host and port.")] = "127.0.0.1:8000",
) -> None:
    """Tell a running SuperLink the public keys of the nodes; it turns others away."""
    from flotilla.deploy.registry import register_nodes

    for node, known in register_nodes(folder, superlink).items():
        print(f"node {node}: {'known already' if known else 'registered'}")


def connect(
    name: Annotated[str, typer.Argument(help="What `flwr run . NAME` calls the SuperLink.")],
    superlink: Annotated[str, typer.Option("--superlink", help="Host and port.")] = "127.0.0.1:8000",
    folder: Annotated[Path, typer.Option("--keys", help="Folder of keys (its ca.crt).")] = Path("keys"),
    insecure: Annotated[bool, typer.Option("--insecure", help="The SuperLink has no TLS.")] = False,
    home: Annotated[Path, typer.Option("--home", help="Folder that FLWR_HOME shall be.")] = Path("runs/.flwr"),
    run_config: Annotated[str, typer.Option("--run-config", help="Settings to show in the command.")] = "",
) -> None:
    """Write a connection for `flwr run`, into a FLWR_HOME of its own: your ~/.flwr stays as it is."""
    from flotilla.deploy.registry import write_connection

    write_connection(home, name, superlink, None if insecure else folder / "ca.crt")
    settings = f" --run-config {shlex.quote(run_config)}" if run_config else ""
    print(f"export FLWR_HOME={home.absolute()}; flwr run . {name} --stream{settings}")


def access(
    public: Annotated[str, typer.Option("--public", metavar="HOST:PORT", help="The proxy that devices reach.")],
    local: Annotated[
        str, typer.Option("--local", metavar="HOST:PORT", help="The SuperLink itself.")
    ] = "127.0.0.1:8000",
    folder: Annotated[Path, typer.Option("--keys", help="Folder of keys (its ca.crt).")] = Path("keys"),
    insecure: Annotated[bool, typer.Option("--insecure", help="Neither has TLS.")] = False,
) -> None:
    """Make ordinary control calls through both ports of a deployed federation, and say which work.

    What a call did is taken back. Exit codes: 0 if the public port refuses all of them
    and the local one none, 2 for a wrong option, otherwise 1.
    """
    from flotilla.deploy.access import CALLS, try_calls

    root = None if insecure else folder / "ca.crt"
    if root is not None and not root.is_file():
        refuse(f"--keys {folder}: there is no ca.crt")
    within, outside = try_calls(local, root), try_calls(public, root)
    print(f"{'':25}{'local ' + local:25}public {public}")
    for call in CALLS:
        print(f"{call:25}{within[call].text():25}{outside[call].text()}")
    good = all(answer.works for answer in within.values()) and all(answer.refused for answer in outside.values())
    raise typer.Exit(0 if good else 1)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command in (federation, tls_keys, register, connect, access):
        app.command()(command)
