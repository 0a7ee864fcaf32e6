"""docs/privacy.md names whatever a message can say: a field that is added is not said silently."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from protocol import DataReply, Hello, HelloRequest, LossRequest, PartRequest, StatisticsRequest, TrainRequest
from protocol.profile import ProfileRequest
from protocol.secure.messages import (
    KeysReply,
    KeysRequest,
    SecureSum,
    SharesReply,
    SharesRequest,
    SumRefusal,
    UnmaskReply,
    UnmaskRequest,
)

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
DOWN, UP = PAGE.split("## From the server to a device")[1].split("## From a device to the server")


STAGES = [KeysRequest, SharesRequest, SecureSum, UnmaskRequest]


@pytest.mark.parametrize(
    "message", [HelloRequest, ProfileRequest, PartRequest, StatisticsRequest, TrainRequest, LossRequest, *STAGES]
)
def test_every_field_of_a_request_is_on_the_page(message: type) -> None:
    named = set(re.findall(r"`([\w-]+)`", DOWN))
    assert {field.name for field in fields(message)} - named <= set()


@pytest.mark.parametrize("message", [DataReply, Hello, KeysReply, SharesReply, SumRefusal, UnmaskReply])
def test_every_field_of_what_a_device_says_of_itself_is_on_the_page(message: type) -> None:
    assert {field.name for field in fields(message)} - {"nonce"} <= set(re.findall(r"`([\w-]+)`", UP))


def test_every_number_that_a_device_says_is_on_the_page() -> None:
    """By the literals in the handlers: what a reply's metrics are called."""
    said: set[str] = set()
    for file in ("handlers.py", "cluster_choice.py", "objectives/self_pruning.py"):
        code = (ROOT / "client_app" / file).read_text(encoding="utf-8")
        said |= set(re.findall(r'measured\["([\w-]+)"\]', code)) | set(re.findall(r'"([a-z-]+)": [a-z]', code))
    assert {"num-examples", "loss", "steps", "norm", "cluster", "began-anew", "loss-square", "rank"} <= said
    assert said <= set(re.findall(r"`([\w-]+)`", UP)), said - set(re.findall(r"`([\w-]+)`", UP))
