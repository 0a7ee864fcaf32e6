"""What is borrowed of flwr is there and is what is relied on; each failure names the symbol."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, MetricRecord

from flotilla.flwr_compat import app_process
from tests.flotilla.flwr_compat.borrowed import private_imports

ROOT = Path(__file__).parents[3]
ROOMS = [ROOT / "flotilla" / "flwr_compat", ROOT / "server_app" / "flwr_patches"]
FILES = [*(file for room in ROOMS for file in room.glob("*.py")), ROOT / "protocol" / "secure" / "flwr_blocks.py"]
SYMBOLS = sorted({found for file in FILES for found in private_imports(file.read_text())})

# Fields of flwr's protobuf messages that are written or read.
FIELDS = {
    "control_pb2.StartRunRequest": {"fab", "override_config", "override_federation_config"},
    "control_pb2.StartRunResponse": {"run_id"},
    "control_pb2.ListRunsRequest": {"run_id"},
    "control_pb2.ListRunsResponse": {"run_dict"},
    "control_pb2.StopRunRequest": {"run_id"},
    "control_pb2.RegisterNodeRequest": {"public_key", "name"},
    "control_pb2.ListNodesResponse": {"nodes_info"},
    "federation_config_pb2.SimulationConfig": {
        "num_supernodes",
        "client_resources_num_cpus",
        "client_resources_num_gpus",
        "init_args_num_cpus",
    },
    "fleet_pb2.ActivateNodeRequest": {"public_key", "heartbeat_interval"},
    "fleet_pb2.ActivateNodeResponse": {"node_id"},
    "fleet_pb2.PullMessagesRequest": {"node"},
    "fleet_pb2.PullMessagesResponse": {"messages_list", "message_object_trees"},
    "fleet_pb2.PushMessagesRequest": {"node", "messages_list", "message_object_trees", "clientapp_runtime_list"},
    "fleet_pb2.PushMessagesResponse": {"objects_to_push", "session_id"},
    "fleet_pb2.RegisterNodeFleetRequest": {"public_key"},
    "message_pb2.ConfirmMessageReceivedRequest": {"node", "run_id", "message_object_id"},
    "message_pb2.PullObjectRequest": {"node", "run_id", "object_id"},
    "message_pb2.PullObjectResponse": {"object_available", "object_content", "object_found"},
    "message_pb2.ObjectTree": {"object_id"},
    "message_pb2.PushObjectRequest": {"node", "run_id", "object_id", "object_content", "session_id"},
    "node_pb2.Node": {"node_id"},
    "node_pb2.NodeInfo": {"last_activated_at", "name", "node_id", "public_key", "status"},
    "run_pb2.Run": {"fab_id", "fab_version", "status"},
    "run_pb2.RunStatus": {"status", "sub_status"},
    "runtime_pb2.AcquireTaskRequest": {"supported_task_types"},
    "runtime_pb2.AcquireTaskResponse": {"token"},
    "fab_pb2.Fab": {"hash_str", "content"},
    "runtime_pb2.PullAppMessagesResponse": {"messages_list", "message_object_trees"},
    "runtime_pb2.PullTaskInputResponse": {"context", "run", "fab", "task_id"},
    "runtime_pb2.PushAppMessagesRequest": {"messages_list", "message_object_trees"},
    "runtime_pb2.PushAppMessagesResponse": {"objects_to_push", "session_id"},
    "runtime_pb2.PushTaskOutputRequest": {"context", "sub_status", "details"},
    "runtime_pb2.SendTaskHeartbeatResponse": {"success"},
}
_SECURE = "flwr.common.secure_aggregation"
# Parameters by which flwr's functions are called, in their order.
PARAMETERS = {
    "flwr.cli.build:build_fab_from_files": ["files"],
    "flwr.cli.config_utils:load_and_validate": ["path"],
    "flwr.common.config:get_fused_config_from_dir": ["project_dir", "override_config"],
    "flwr.cli.utils:build_pathspec": ["patterns"],
    "flwr.cli.utils:load_gitignore_patterns": ["file"],
    f"{_SECURE}.crypto.shamir:combine_shares": ["share_list"],
    f"{_SECURE}.crypto.shamir:create_shares": ["secret", "threshold", "num"],
    f"{_SECURE}.crypto.symmetric_encryption:decrypt": ["key", "ciphertext"],
    f"{_SECURE}.crypto.symmetric_encryption:encrypt": ["key", "plaintext"],
    f"{_SECURE}.crypto.symmetric_encryption:generate_shared_key": ["private_key", "public_key"],
    f"{_SECURE}.quantization:dequantize": ["quantized_parameters", "clipping_range", "target_range"],
    f"{_SECURE}.quantization:quantize": ["parameters", "clipping_range", "target_range"],
    f"{_SECURE}.secaggplus_utils:share_keys_plaintext_concat": ["src_node_id", "dst_node_id", "b_share", "sk_share"],
    f"{_SECURE}.secaggplus_utils:share_keys_plaintext_separate": ["plaintext"],
    "flwr.server.superlink.fleet.vce.backend.raybackend:RayBackend.build": ["self", "app_fn"],
    "flwr.server.superlink.fleet.vce.backend.raybackend:RayBackend.init_ray": ["self", "backend_config"],
    "flwr.server.superlink.fleet.vce.backend.raybackend:RayBackend.process_message": ["self", "message", "context"],
    "flwr.server.superlink.fleet.vce.backend.raybackend:RayBackend.terminate": ["self"],
    "flwr.simulation.ray_transport.ray_actor:VirtualClientEngineActor.run": [
        "self",
        "client_app_fn",
        "message",
        "cid",
        "context",
    ],
    "flwr.simulation.ray_transport.ray_actor:pool_size_from_resources": ["client_resources"],
    "flwr.supercore.auth:load_superexec_auth_secret": ["secret_file"],
    "flwr.supercore.control:ControlHttpClient.from_server_address": [
        "server_address",
        "insecure",
        "root_certificates",
        "interceptors",
    ],
    "flwr.supercore.fab:Fab": ["hash_str", "content", "verifications"],
    "flwr.supercore.interceptors:RuntimeTokenHttpInterceptor": ["token"],
    "flwr.supercore.interceptors:RuntimeVersionHttpInterceptor": ["component_name"],
    "flwr.supercore.interceptors:SuperExecAuthHttpInterceptor": ["master_secret", "protected_methods"],
    "flwr.supercore.primitives.asymmetric:bytes_to_private_key": ["private_key_bytes"],
    "flwr.supercore.primitives.asymmetric:bytes_to_public_key": ["public_key_bytes"],
    "flwr.supercore.primitives.asymmetric:generate_key_pairs": [],
    "flwr.supercore.primitives.asymmetric:private_key_to_bytes": ["private_key"],
    "flwr.supercore.primitives.asymmetric:public_key_to_bytes": ["public_key"],
    "flwr.supercore.runtime:RuntimeHttpClient.from_server_address": [
        "server_address",
        "insecure",
        "root_certificates",
        "interceptors",
    ],
    "flwr.supercore.inflatable.inflatable_object:get_all_nested_objects": ["obj"],
    "flwr.supercore.inflatable.inflatable_object:get_object_tree": ["obj"],
    "flwr.supercore.inflatable.inflatable_object:iterate_object_tree": ["tree"],
    "flwr.supernode.fleet_http_client:FleetHttpClient.from_server_address": [
        "server_address",
        "insecure",
        "root_certificates",
        "interceptors",
    ],
    "flwr.supernode.node_auth_http_interceptor:NodeAuthHttpInterceptor": ["private_key", "public_key"],
    "flwr.app.message:remove_content_from_message": ["message"],
    "flwr.cli.install:install_from_fab": ["fab_file", "install_dir", "skip_prompt"],
    "flwr.clientapp.utils:get_load_client_app_fn": ["default_app_ref", "app_path", "multi_app"],
    "flwr.common.config:get_project_dir": ["fab_id", "fab_version", "fab_hash"],
    "flwr.supercore.inflatable.inflatable_utils:inflate_object_from_contents": ["object_id", "object_contents"],
    "flwr.supernode.cli.flower_supernode:flower_supernode": [],
    "flwr.supernode.nodestate.in_memory_nodestate:InMemoryNodeState.store_message": ["self", "message"],
    "flwr.supernode.servicer.runtime.runtime_handlers:acquire_task": ["request", "state"],
}
# Methods of flwr's classes that are called or replaced.
METHODS = {
    "flwr.supercore.control:ControlHttpClient": {
        "StartRun",
        "ListRuns",
        "StopRun",
        "RegisterNode",
        "ListNodes",
        "close",
    },
    "flwr.supernode.fleet_http_client:FleetHttpClient": {
        "ActivateNode",
        "ConfirmMessageReceived",
        "PullMessages",
        "PullObject",
        "PushMessages",
        "PushObject",
        "RegisterNode",
    },
    "flwr.supercore.runtime:RuntimeHttpClient": {
        "AcquireTask",
        "ConfirmMessageReceived",
        "PullMessages",
        "PullObject",
        "PullTaskInput",
        "PushMessages",
        "PushObject",
        "PushTaskOutput",
        "SendTaskHeartbeat",
        "close",
    },
}


def borrowed(path: str) -> Any:
    module, _, name = path.partition(":")
    thing = importlib.import_module(module)
    for part in name.split("."):
        thing = getattr(thing, part)
    return thing


@pytest.mark.parametrize(("module", "name"), SYMBOLS, ids=lambda text: text)
def test_is_there(module: str, name: str) -> None:
    found = importlib.import_module(module)
    if name and not hasattr(found, name):
        importlib.import_module(f"{module}.{name}")


@pytest.mark.parametrize("message", FIELDS)
def test_has_the_fields(message: str) -> None:
    module, _, name = message.partition(".")
    descriptor = getattr(importlib.import_module(f"flwr.proto.{module}"), name).DESCRIPTOR
    assert FIELDS[message] <= set(descriptor.fields_by_name)


@pytest.mark.parametrize("path", PARAMETERS)
def test_takes_these_arguments(path: str) -> None:
    assert list(inspect.signature(borrowed(path)).parameters)[: len(PARAMETERS[path])] == PARAMETERS[path]
    for name, parameter in list(inspect.signature(borrowed(path)).parameters.items())[len(PARAMETERS[path]) :]:
        assert parameter.default is not inspect.Parameter.empty, f"{name} must be given"


@pytest.mark.parametrize("path", METHODS)
def test_has_these_methods(path: str) -> None:
    assert {name for name in METHODS[path] if not callable(getattr(borrowed(path), name, None))} == set()


@pytest.mark.parametrize("task", app_process._COMMANDS)
def test_flowers_commands_are_where_the_app_process_looks(task: str) -> None:
    command, runner, flusher = app_process._COMMANDS[task]
    assert callable(borrowed(":".join(command)))
    assert callable(borrowed(":".join(runner)))
    assert callable(borrowed(f"{flusher}:flush_logs"))


def test_words_and_codes() -> None:
    from flwr.common.constant import ErrorCode, SubStatus
    from flwr.supercore.constant import TaskType

    from flotilla.flwr_compat.messages import CLIENT_APP_CRASHED, CLIENT_APP_RAISED

    assert (CLIENT_APP_RAISED, CLIENT_APP_CRASHED) == (2, 8)  # docs and logs name these numbers
    assert ErrorCode.CLIENT_APP_CRASHED == CLIENT_APP_CRASHED
    assert str(TaskType.CLIENT_APP) == "flwr-clientapp"
    assert (SubStatus.FAILED, SubStatus.COMPLETED) == ("failed", "completed")


@pytest.mark.parametrize("name", ["pull_objects", "pull_and_inflate_object_from_tree"])
def test_rests_of_a_transfer_can_be_set(name: str) -> None:
    pull = borrowed(f"flwr.supercore.inflatable.inflatable_utils:{name}")
    assert pull.__kwdefaults__.keys() >= {"initial_backoff", "backoff_cap", "max_tries_per_object"}


def test_the_simulations_grid_and_store_are_what_is_patched() -> None:
    from flwr.server.superlink.fleet.vce import vce_api
    from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
    from flwr.superlink.grid.inmemory_grid import InMemoryGrid

    assert "self.state = " in inspect.getsource(InMemoryGrid.__init__)
    assert list(inspect.signature(InMemoryLinkState.store_message_res).parameters) == ["self", "message"]
    assert "state.store_message_res(message_reply)" in inspect.getsource(vce_api.put_message_into_state)
    assert list(inspect.signature(InMemoryLinkState.get_message_ins).parameters)[:2] == ["self", "node_id"]
    assert list(inspect.signature(InMemoryLinkState.store_message_ins).parameters) == ["self", "message"]


def test_the_simulations_backend_is_what_is_replaced() -> None:
    """`flotilla.flwr_compat.ray_backend` puts another pool into it."""
    from flwr.server.superlink.fleet.vce import vce_api
    from flwr.server.superlink.fleet.vce.backend.raybackend import RayBackend
    from flwr.simulation import run_simulation

    calls = inspect.getsource(importlib.import_module(run_simulation.__module__)._main_loop)
    assert "vce.start_vce(" in calls  # looked up when it is called, and by keywords
    assert all(f"{name}=" in calls for name in ("client_app_attr", "app_dir", "run"))
    assert "from .backend.raybackend import RayBackend" in inspect.getsource(vce_api.start_vce)
    run_api = inspect.getsource(vce_api.run_api)
    assert "with ThreadPoolExecutor() as executor" in run_api  # as many threads as this machine allows
    assert "range(backend.num_workers)" in run_api
    assert run_api.index("backend.build(app_fn)") < run_api.index(
        "add_messages_to_queue"
    )  # nodes prove themselves first
    made = inspect.getsource(RayBackend.__init__)
    assert made.index("self.init_ray(") < made.index("self.client_resources = ")
    assert isinstance(RayBackend.num_workers, property)


def test_an_actor_calls_what_it_is_given_as_a_client_app() -> None:
    """`flotilla.flwr_compat.readiness` has it prove itself by that."""
    from flwr.simulation.ray_transport.ray_actor import VirtualClientEngineActor

    run = inspect.getsource(VirtualClientEngineActor.run)
    assert "client_app_fn()" in run
    assert "app(message=message, context=context)" in run
    assert "return cid, out_message, context" in run


def test_a_superlink_has_the_address_that_objects_are_pushed_to() -> None:
    from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES

    from flotilla.flwr_compat.objects import PUSH_PATH

    assert ("POST", PUSH_PATH) in PROTOBUF_REQUEST_TYPES


def test_shares_open_a_secret_and_begin_with_their_number() -> None:
    """`strategies.secure.group` looks at lengths and numbers of shares."""
    from protocol.secure.flwr_blocks import combine_shares, create_shares

    shares = create_shares(bytes(32), 2, 3)
    assert [(len(share), int.from_bytes(share[:4], "little")) for share in shares] == [(52, 1), (52, 2), (52, 3)]
    assert combine_shares(shares[1:]) == combine_shares([shares[2], shares[0]]) == bytes(32)


def test_levels_go_up_and_down_from_the_middle() -> None:
    """`protocol.secure.fixed_point` adds levels up and takes the offsets off."""
    from protocol.secure.flwr_blocks import dequantize, quantize

    values = np.array([-9.0, -2.0, 0.0, 1.0, 2.0, 9.0])
    (levels,) = quantize([values], 2.0, 8)
    assert levels.tolist() == [0, 0, 4, 6, 8, 8]
    assert dequantize([levels], 2.0, 8)[0].tolist() == [-2.0, -2.0, 0.0, 1.0, 2.0, 2.0]


def test_an_agreed_key_is_32_bytes_as_text() -> None:
    from base64 import urlsafe_b64decode

    from protocol.secure.flwr_blocks import generate_key_pairs, generate_shared_key

    (one, its), (other, others) = generate_key_pairs(), generate_key_pairs()
    assert generate_shared_key(one, others) == generate_shared_key(other, its)
    assert len(urlsafe_b64decode(generate_shared_key(one, others))) == 32


def test_a_client_app_says_which_mods_it_has() -> None:
    """`client_app.mods` reads them."""
    from flwr.clientapp import ClientApp
    from flwr.clientapp.mod import message_size_mod

    assert ClientApp(mods=[message_size_mod])._mods == [message_size_mod]
    assert ClientApp()._mods == []


@pytest.mark.parametrize("kind", [ConfigRecord, MetricRecord])
def test_a_record_has_its_values_in_one_dictionary(kind: type[ConfigRecord | MetricRecord]) -> None:
    """Which is written to where they have been checked; what is set afterwards is checked as ever."""
    assert vars(kind({"a": 1}))["_data"] == {"a": 1}
    record = kind()
    vars(record)["_data"].update({"a": 1})
    assert record == kind({"a": 1})
    with pytest.raises(TypeError):
        record["b"] = None  # type: ignore[assignment]
