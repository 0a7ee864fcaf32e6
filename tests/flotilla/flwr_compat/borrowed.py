"""What source borrows of flwr that flwr does not promise."""

from __future__ import annotations

import ast
from collections.abc import Iterator

PUBLIC = ("flwr.app", "flwr.clientapp", "flwr.serverapp")
# The logger: flwr exports it from here, its own guides import it, and its lines are the run's output.
# The function that Flower's own simulations are started by, which the benchmark of Flower's FedAvg does.
ALSO = {("flwr.common", "log"), ("flwr.simulation", "run_simulation")}


def private_imports(source: str) -> Iterator[tuple[str, str]]:
    """Find (module, name) of every import of flwr that is not public; the name is "" for a whole module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found = [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("flwr."):
            found = [(node.value, "")] if node.value.replace(".", "").isidentifier() else []
        else:
            continue
        for module, name in found:
            if module.partition(".")[0] == "flwr" and not is_public(module, name):
                yield module, name


def is_public(module: str, name: str) -> bool:
    """Whether flwr promises it."""
    whole = f"{module}.{name}" if name else module
    return (module, name) in ALSO or any(whole == door or whole.startswith(f"{door}.") for door in PUBLIC)
