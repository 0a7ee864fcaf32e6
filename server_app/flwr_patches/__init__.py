"""What the ServerApp changes in the flwr process that it runs in, and the only room of it that knows flwr's insides.

Each patch is applied where flwr looks as it does in 1.41 and left out where it does not; the tests then say which.
"""

from __future__ import annotations

from flwr.serverapp import Grid

from server_app.flwr_patches.elsewhere import say_where_nodes_compute
from server_app.flwr_patches.packed import pack_messages
from server_app.flwr_patches.simulation import ask_waiting_nodes_only, tell_of_replies
from server_app.flwr_patches.transport import look_again_soon
from server_app.flwr_patches.unreadable import refuse_unreadable


def apply(grid: Grid) -> None:
    """Apply every patch to this process and to the grid of its run."""
    ask_waiting_nodes_only(grid)
    tell_of_replies(grid)
    pack_messages(grid)
    say_where_nodes_compute(grid)
    look_again_soon()
    refuse_unreadable()
