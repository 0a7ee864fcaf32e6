"""What others are told before a deployed run: the SuperLink the nodes' public keys, `flwr` where the SuperLink is."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from flotilla.deploy.tls_keys import public_keys
from flotilla.flwr_compat.control import open_control


def register_nodes(keys: Path, superlink: str) -> dict[int, bool]:
    """Register the public keys of all nodes.

    Args:
        keys: folder that `flotilla.deploy.tls_keys.make_keys` filled.
        superlink: its host and port.

    Returns:
        Whether the SuperLink knew the key already, by node.
    """
    with open_control(superlink, keys / "ca.crt") as control:
        known = {node.public_key for node in control.nodes()}
        found = public_keys(keys)
        for node, key in found.items():
            if key not in known:
                control.register(key, f"node-{node}")
    return {node: key in known for node, key in found.items()}


def write_connection(home: Path, name: str, superlink: str, root: Path | None) -> None:
    """Write a connection into `config.toml` of a FLWR_HOME; the other connections there stay.

    Args:
        home: folder that FLWR_HOME shall be.
        name: of the connection.
        superlink: host and port.
        root: certificate that vouches for the SuperLink; None: without TLS.
    """
    home.mkdir(parents=True, exist_ok=True)
    path = home / "config.toml"
    tables = tomllib.loads(path.read_text(encoding="utf-8"))["superlink"] if path.exists() else {}
    trust = {"insecure": True} if root is None else {"root-certificates": str(root.absolute())}
    tables |= {"default": name, name: {"address": superlink, **trust}}
    lines = ["[superlink]", f"default = {json.dumps(tables.pop('default'))}"]
    for table, values in tables.items():
        lines += ["", f"[superlink.{json.dumps(table)}]", *(f"{k} = {json.dumps(v)}" for k, v in values.items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
