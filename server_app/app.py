"""The ServerApp: from the run configuration to a finished run folder."""

from __future__ import annotations

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from server_app.config import resolve
from server_app.run import Run

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Check the configuration, then run it."""
    Run(resolve(context.run_config), grid).execute()
