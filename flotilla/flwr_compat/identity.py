"""Who we are to flwr: a `Message` can only be made inside a task, and ours is this process."""

from __future__ import annotations

from flwr.supercore.task_identity import TaskIdentity


def assume_identity() -> None:
    """Make messages possible outside of a Flower run."""
    try:
        known = TaskIdentity.run_id is not None
    except RuntimeError:
        known = False
    if not known:
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
