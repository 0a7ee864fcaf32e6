"""The ServerApp: from the run configuration to a finished run folder."""

from __future__ import annotations

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from protocol import keep_large_buffers
from server_app import flwr_patches
from server_app.config.resolve import resolve
from server_app.run import Run

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Check the configuration, then run it."""
    keep_large_buffers()
    flwr_patches.apply(grid)
    Run(resolve(context.run_config), grid).execute()
