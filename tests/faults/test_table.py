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


@pytest.mark.parametrize(("file", "test"), sorted(set(NAMED)))
def test_every_named_test_exists(file: str, test: str) -> None:
    assert f"\ndef {test}(" in (ROOT / file).read_text()


def test_every_row_names_one() -> None:
    rows = [row for row in (ROOT / "docs/faults.md").read_text().splitlines() if row.startswith("| ")]
    assert [row for row in rows if "::" not in row and not row.startswith("| fault")] == []
    assert len(rows) > 35


@pytest.mark.parametrize("fault", MATRIX)
def test_every_fault_is_in_it(fault: str) -> None:
    for test, case in MATRIX[fault]:
        assert test in FILES, "not in docs/faults.md"
        assert not case or f'"{case}"' in FILES[test].read_text()
