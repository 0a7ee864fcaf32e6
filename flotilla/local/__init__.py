"""The local engine: a run without Flower's processes, through the same serialised records. Same results as Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from protocol import Scalar


def run_local(
    run_config: Mapping[str, Scalar],
    nodes: int,
    processes: int | None = None,
    packages: Mapping[str, Path] | None = None,
) -> int:
    """Run a configuration in this process and a pool of workers.

    Args:
        run_config: flat configuration, checked here.
        nodes: number of clients.
        processes: number of workers; None is one per core, 0 runs every client in this process (for a debugger).
        packages: of the user's own, by name, which workers can import; this process can already.

    Returns:
        The exit code: 0.

    Raises:
        SettingError: a setting that cannot be used.
    """
    from flotilla.local.directory import directory_of
    from flotilla.local.output import no_colours_into_pipes
    from server_app.config.resolve import resolve
    from server_app.run import Run

    no_colours_into_pipes()
    config = resolve(run_config)
    directory = directory_of(config.data, nodes)
    if processes == 0:
        from client_app.app import app
        from flotilla.local.grid import LazyContexts, LocalGrid

        Run(config, LocalGrid(app, LazyContexts(config.flat, nodes), directory=directory)).execute()
        return 0
    from flotilla.local.pool import PoolGrid

    with PoolGrid(config.flat, nodes, processes, packages, directory=directory) as grid:
        Run(config, grid).execute()
    return 0


def run_other(app_dir: Path, run_config: Mapping[str, Scalar], nodes: int) -> int:
    """Run a Flower app of somebody else's in this process: its own ServerApp and ClientApp, one client after another.

    Args:
        app_dir: its folder.
        run_config: its configuration, flat.
        nodes: number of clients.

    Returns:
        The exit code: 0, or that of the app's `sys.exit`, which is a failure where no node had trained. What else it
        raises goes through.

    Raises:
        AppError: it names no halves, or some that are not there.
    """
    import sys

    from flwr.app import Context, Message, RecordDict

    from flotilla.local.grid import LocalGrid, contexts
    from flotilla.local.halves import halves
    from flotilla.local.output import no_colours_into_pipes
    from flotilla.local.stopped import Stopped, code_of

    trained = False

    def watch(request: Message, reply: Message) -> list[Message]:
        nonlocal trained
        trained |= request.metadata.message_type.partition(".")[0] == "train" and not reply.has_error()
        return [reply]

    no_colours_into_pipes()
    sys.path.insert(0, str(app_dir))
    try:
        server, client = halves(app_dir)
        grid = LocalGrid(client, contexts(run_config, nodes), watch)
        server(grid, Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=dict(run_config)))
    except Stopped:
        raise
    except SystemExit as end:
        return code_of(end, learnt=trained)
    return 0
