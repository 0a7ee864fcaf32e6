"""The table of faults names tests that exist, and every fault that we set out to survive."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs/faults.md").read_text())
FILES = {test: ROOT / file for file, test in NAMED}

# What a run was to survive before there was a line of this project: fault → a test of the table, and where it has many
# cases the one that is meant.
BAD, FRAME, KILLED = "test_a_bad_reply_is_no_reply", "test_a_damaged_frame_is_no_reply", "test_killed_and_resumed"
MATRIX: dict[str, list[tuple[str, str]]] = {
    "reply error": [("test_every_error_of_flwr_is_no_reply", "")],
    "client exception": [("test_a_client_that_raises", "")],
    "client killed at train": [("test_a_client_is_killed_while_it_trains_or_sends", "training")],
    "client killed while sending": [
        ("test_a_client_is_killed_while_it_trains_or_sends", "trained"),
        ("test_a_client_is_killed_while_it_trains_or_sends", "sending"),
    ],
    "reply after deadline": [("test_a_reply_after_the_deadline", "")],
    "reply twice": [("test_a_reply_twice_counts_once", ""), ("test_a_reply_twice_and_later_counts_once", "")],
    "reply for previous round": [("test_the_reply_of_the_round_before_does_not_take_its_place", "")],
    "other node's nonce": [("test_another_nodes_reply_does_not_take_its_place", ""), (BAD, "nonce of another node")],
    "missing tensor": [(BAD, "no array")],
    "extra tensor": [(BAD, "additional array")],
    "transposed tensor": [(BAD, "transposed")],
    "float64, int8, object dtype": [(BAD, "float64"), (BAD, "int8"), (BAD, "objects")],
    "NaN at one coordinate": [(BAD, "NaN")],
    "infinite norm": [(BAD, "infinity"), (BAD, "norm beyond float32")],
    "weight 0, -1, NaN, 1e30": [
        (BAD, "no examples"),
        (BAD, "minus one example"),
        (BAD, "NaN examples"),
        (BAD, "1e30 examples"),
    ],
    "truncated frame": [(FRAME, "truncated"), (BAD, "truncated")],
    "flipped byte": [(FRAME, "flipped in the body"), ("test_every_single_flipped_bit_is_refused", "")],
    "wrong version": [(BAD, "another protocol"), (BAD, "flipped in the version")],
    "10 GB declared": [(FRAME, "ten gigabytes"), (BAD, "ten gigabytes")],
    "all clients fail": [("test_a_round_in_which_everybody_fails_changes_nothing", "")],
    "quorum exactly met": [("test_quorum", "")],
    "tier with no client for the whole run": [("test_a_tier_without_clients_leaves_its_own_coordinates_alone", "")],
    "server killed": [
        (KILLED, "before fold"),
        (KILLED, "during fold"),
        (KILLED, "during checkpoint write"),
        (KILLED, "after rename"),
    ],
    "corrupt newest checkpoint": [("test_a_damaged_newest_checkpoint_falls_back_one", "")],
    "disk full": [
        ("test_a_full_disk_ends_no_training", ""),
        ("test_a_disk_that_is_full_to_the_last_byte_ends_no_training", ""),
    ],
    "node joins mid-run": [("test_a_node_joins_in_the_middle_of_a_run", "")],
    "node changes tier mid-run": [("test_a_node_changes_its_tier", "")],
    "partition empty": [
        ("test_a_partition_without_examples", ""),
        ("test_a_device_whose_own_folder_has_no_images", ""),
    ],
    "partition with one class": [("test_one_class_per_client", "")],
    "batch of one example with batch norm": [("test_batches_of_one", "static-batch")],
}

# What a node that a run admits, or somebody who reaches a port, was found to be able to do: likewise.
ATTACKS: dict[str, list[tuple[str, str]]] = {
    "a type that is no text": [
        ("test_any_bytes_in_a_reply_are_no_reply", "half a surrogate pair as type"),
        ("test_a_run_goes_on_after_a_reason_of_any_text", ""),
    ],
    "a type that is a number without end": [
        ("test_any_bytes_in_a_reply_are_no_reply", "thousands of hexadecimal digits in the header")
    ],
    "an honest device's odd file name": [("test_an_error_that_cannot_be_sent_ends_the_clients_process", "")],
    "control calls from outside": [
        ("test_nobody_outside_reaches_the_control_side", ""),
        ("test_nothing_else_passes", "/v1/control/start-run"),
        ("test_the_compose_file_trains", ""),
    ],
    "a run's code as the owner of the key": [("test_a_runs_code_is_another_user_than_the_key", "")],
    "steps": [("test_fednova_takes_no_more_steps_than_planned", "trimmed-mean")],
    "a loss that weighs": [("test_a_loss_weighs_no_more_than_a_few_others", "")],
    "examples": [
        ("test_a_reply_weighs_no_more_than_its_hello_said", ""),
        ("test_a_hello_says_no_more_than_others_have", ""),
    ],
    "a difference a million times too long": [
        ("test_a_difference_far_too_long_is_no_reply_from_the_first_round_on", ""),
        ("test_a_run_whose_loss_explodes_goes_back", ""),
    ],
    "no good checkpoint after it": [
        ("test_bad_rounds_take_no_checkpoints_place", ""),
        ("test_abandoned_rounds_take_no_checkpoints_place", ""),
    ],
    "a difference turned and ten times too long": [("test_the_first_round_says_what_is_usual", "")],
    "another node's id": [
        ("test_a_registered_key_cannot_say_another_nodes_id", ""),
        ("test_the_registered_owner_gets_its_id_back", ""),
        ("test_the_owner_gets_its_id_back_where_nobody_is_registered", ""),
    ],
    "ids without end": [
        ("test_there_are_no_more_ids_than_clients", ""),
        ("test_a_number_as_text_is_no_other_id", ""),
        ("test_any_bytes_in_a_hello_are_no_hello", "a name of 20 MB"),
    ],
    "silent to a hello": [("test_who_does_not_say_hello_is_asked_less_and_less_often", "")],
    "silent to a request to train": [
        ("test_who_does_not_train_is_asked_less_and_less_often_and_not_waited_for_an_hour", "")
    ],
    "a tier changed by a restart": [("test_a_tier_changed_over_a_restart_counts_from_the_next_round", "")],
    "a message in another's name": [
        ("test_a_request_has_a_name_that_nobody_works_out", ""),
        ("test_a_reply_that_says_it_is_from_another_node_is_none", ""),
    ],
    "moments": [("test_moments_far_from_the_others_are_left_out", "")],
    "another cluster": [("test_another_cluster_is_told_apart_by_its_own_lengths", "")],
    "losses and sizes to be chosen by": [
        ("test_losses_are_held_against_each_other", ""),
        ("test_a_size_that_nobody_has_does_not_train_alone", ""),
    ],
    "an error that names a file": [("test_an_honest_devices_error_names_no_file", "")],
    "a privacy mod that does nothing": [("test_a_protection_that_would_do_nothing_is_refused_under_any_name", "")],
    "a flipped byte in the metrics": [("test_a_flipped_byte_in_the_metrics_costs_a_line", "")],
    "another run's checkpoint": [("test_another_runs_checkpoint_is_refused_by_name", "")],
    "services without limits, packages without hashes": [
        ("test_no_service_takes_all_there_is", ""),
        ("test_what_is_installed_is_known_by_its_hash", ""),
    ],
    "files that are no pictures, or too large": [("test_what_is_no_picture_or_far_too_large_is_passed_over", "")],
}


@pytest.mark.parametrize(("file", "test"), sorted(set(NAMED)))
def test_every_named_test_exists(file: str, test: str) -> None:
    assert f"\ndef {test}(" in (ROOT / file).read_text()


def test_every_row_names_one() -> None:
    rows = [row for row in (ROOT / "docs/faults.md").read_text().splitlines() if row.startswith("| ")]
    assert [row for row in rows if "::" not in row and not row.startswith("| fault")] == []
    assert len(rows) > 35


@pytest.mark.parametrize("fault", [*MATRIX, *ATTACKS])
def test_every_fault_is_in_it(fault: str) -> None:
    for test, case in (MATRIX | ATTACKS)[fault]:
        assert test in FILES, "not in docs/faults.md"
        assert not case or f'"{case}"' in FILES[test].read_text()
