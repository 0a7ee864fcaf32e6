"""The local engine: a run without Flower's processes, through the same serialised records. Same results as Ray."""

from __future__ import annotations

from collections.abc import Mapping

from protocol import Scalar


def run_local(run_config: Mapping[str, Scalar], nodes: int, processes: int | None = None) -> int:
    """Run a configuration in this process and a pool of workers.

    Args:
        run_config: flat configuration, checked here.
        nodes: number of clients.
        processes: number of workers; None is one per core, 0 runs every client in this process (for a debugger).

    Returns:
        The exit code: 0.

    Raises:
        SettingError: a setting that cannot be used.
    """
    from client_app.app import app
    from flotilla.local.grid import LocalGrid, contexts
    from flotilla.local.output import no_colours_into_pipes
    from flotilla.local.pool import PoolGrid
    from server_app.config.resolve import resolve
    from server_app.run import Run

    no_colours_into_pipes()
    config = resolve(run_config)
    if processes == 0:
        Run(config, LocalGrid(app, contexts(config.flat, nodes))).execute()
        return 0
    with PoolGrid(config.flat, nodes, processes) as grid:
        Run(config, grid).execute()
    return 0
