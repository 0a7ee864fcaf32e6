"""The ServerApp: from the run configuration to a finished run folder."""

from __future__ import annotations

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from protocol import keep_large_buffers
from server_app.config.resolve import resolve
from server_app.flwr_simulation import ask_waiting_nodes_only
from server_app.flwr_transport import look_again_soon
from server_app.run import Run

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Check the configuration, then run it."""
    keep_large_buffers()
    ask_waiting_nodes_only(grid)
    look_again_soon()
    Run(resolve(context.run_config), grid).execute()
