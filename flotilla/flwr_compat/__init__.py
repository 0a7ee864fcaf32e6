"""The one door to what flwr does not promise: its protobuf messages, clients of its APIs, its builder of bundles.

A file a subject. Elsewhere only `flwr.app`, `flwr.clientapp`, `flwr.serverapp` and the logger are imported, and a test
checks that. tests/flotilla/flwr_compat holds every borrowed symbol against what is relied on: an upgrade of flwr fails
there, by the symbol's name. What the ServerApp changes in flwr's process is in `server_app/flwr_patches`.

`app_process.py` and `executor.py` are programs that stand in for flwr's own. They are started by path and import
nothing of ours, because the code that their processes run comes from a bundle.
"""
