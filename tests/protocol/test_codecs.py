"""Every codec through its frame: exact, memory that loses nothing, one clear line for what cannot be."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from models.errors import SettingError
from protocol import WireError, decode
from protocol.codecs import CODECS, NO_DRAWS, CodecSettings, codec_from, codec_of
from protocol.codecs.ef21 import STATE
from protocol.codecs.topk import RESIDUAL
from tests.protocol.cases import EVERY, SIZES, SMALL, Kept, difference, draws, named

each = pytest.mark.parametrize("settings", EVERY, ids=named)


@each
def test_the_same_draws_give_the_same_bytes_and_others_other(settings: CodecSettings) -> None:
    codec = codec_of(settings)
    a, b, c = (codec.encode(difference(), SIZES, draws(seed), Kept()) for seed in (1, 1, 2))
    assert a.data == b.data
    assert a.dtype == ("float32" if settings.name == "float32" else "uint8")
    assert (a.data != c.data) == codec.DRAWS


@each
def test_what_draws_nothing_says_so(settings: CodecSettings) -> None:
    """Who says that it draws nothing cannot draw all the same: it would draw the same for every client."""
    codec = codec_of(settings)
    if codec.DRAWS:
        with pytest.raises(TypeError, match="the same for all clients"):
            codec.encode(difference(), SIZES, NO_DRAWS, Kept())
    else:
        assert codec.encode(difference(), SIZES, NO_DRAWS, Kept()).data


@each
def test_the_difference_is_not_written_to(settings: CodecSettings) -> None:
    x = difference()
    codec, memory = codec_of(settings), Kept()
    for _ in range(2):
        codec.encode(x, SIZES, draws(), memory)
    assert torch.equal(x, difference())


@each
def test_small_tensors_arrive_as_they_are(settings: CodecSettings) -> None:
    codec, x = codec_of(settings), difference()
    flat = codec.decode(codec.encode(x, SIZES, draws(), Kept()), SIZES, Kept()).flat
    assert flat.dtype == torch.float32
    assert flat.shape == x.shape
    exact = "16" not in settings.name
    for sent, got in zip(torch.split(x, list(SIZES)), torch.split(flat, list(SIZES)), strict=True):
        if len(sent) < SMALL:
            assert torch.equal(sent, got) if exact else torch.allclose(sent, got, rtol=1e-2, atol=1e-6)


@each
@pytest.mark.parametrize("sizes", [(), (0,), (1,), (99, 3), (100,), (1, 1), (101, 1, 101)])
def test_parts_of_any_size(settings: CodecSettings, sizes: tuple[int, ...]) -> None:
    codec, x = codec_of(settings), difference(sizes) if sizes else torch.zeros(0)
    decoded = codec.decode(codec.encode(x, sizes, draws(), Kept()), sizes, Kept())
    assert decoded.flat.shape == x.shape
    assert decoded.entropy_bytes >= 0


@each
def test_the_entropy_is_below_the_bytes(settings: CodecSettings) -> None:
    codec = codec_of(settings)
    array = codec.encode(difference(), SIZES, draws(), Kept())
    assert 0 < codec.decode(array, SIZES, Kept()).entropy_bytes <= len(array.data)


@each
def test_settings_cross_the_wire(settings: CodecSettings) -> None:
    text = settings.to_text()
    assert codec_from(text).settings.to_text() == text
    assert CodecSettings.from_text(text).to_text() == text


def test_float32_is_the_plain_array_it_always_was() -> None:
    x = difference()
    array = codec_of(CodecSettings()).encode(x, SIZES, draws(), Kept())
    assert array.dtype == "float32"
    assert torch.equal(decode(array, len(x)), x)
    assert array.data[-4 * len(x) :] == x.numpy().tobytes()
    np.testing.assert_array_equal(array.numpy(), x.numpy())


def test_halves_are_rounded_to_nearest() -> None:
    x = difference()
    for name, kind in (("float16", torch.float16), ("bfloat16", torch.bfloat16)):
        codec = codec_of(CodecSettings(name))
        array = codec.encode(x, SIZES, draws(), Kept())
        assert array.shape == (40 + 2 * len(x),)
        assert torch.equal(codec.decode(array, SIZES, Kept()).flat, x.to(kind).float())


# ---- error feedback --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.01, 0.3, 1.0])
def test_error_feedback_loses_nothing(share: float) -> None:
    """Σ sent + e = Σ Δ, whatever was drawn."""
    codec, memory = codec_of(CodecSettings("topk", share=share, small=SMALL)), Kept()
    sent = given_ = torch.zeros(sum(SIZES), dtype=torch.float64)
    for seed in range(30):
        x = difference(seed=seed)
        sent = sent + codec.decode(codec.encode(x, SIZES, draws(), memory), SIZES, Kept()).flat
        given_ = given_ + x
    torch.testing.assert_close(sent + memory.vectors[RESIDUAL], given_, rtol=1e-5, atol=1e-6)


def test_the_residual_is_what_was_not_sent() -> None:
    codec, memory, x = codec_of(CodecSettings("topk", share=0.1, small=SMALL)), Kept(), difference()
    flat = codec.decode(codec.encode(x, SIZES, draws(), memory), SIZES, Kept()).flat
    assert torch.equal(flat + memory.vectors[RESIDUAL], x)
    assert not (flat * memory.vectors[RESIDUAL]).any()


def test_a_lost_residual_is_zero() -> None:
    codec, memory = codec_of(CodecSettings("topk", share=0.1, small=SMALL)), Kept()
    codec.encode(difference(), SIZES, draws(), memory)
    fresh = codec.encode(difference(seed=1), SIZES, draws(), Kept())
    assert codec.encode(difference(seed=1), SIZES, draws(), memory).data != fresh.data
    memory.vectors.clear()
    assert codec.encode(difference(seed=1), SIZES, draws(), memory).data == fresh.data


class Ends:
    """A client and the server's memory of it, under EF21."""

    def __init__(self, share: float) -> None:
        self.codec = codec_of(CodecSettings("ef21", share=share, small=SMALL))
        self.client, self.server = Kept(), Kept()

    def send(self, seed: int, *, lost: bool = False) -> torch.Tensor:
        base = self.codec.base(self.server)
        array = self.codec.encode(difference(seed=seed), SIZES, draws(), self.client, base)
        decoded = self.codec.decode(array, SIZES, self.server)
        if not lost:
            for name, vector in decoded.remember.items():
                self.server.write(name, vector)
        return decoded.flat


def test_ef21_without_compression_is_plain() -> None:
    ends = Ends(1.0)
    for seed in range(4):
        assert torch.equal(ends.send(seed), difference(seed=seed))


def test_ef21_approaches_a_difference_that_stays() -> None:
    """G gets 10 % of the coordinates at a time: after ten rounds everything."""
    ends = Ends(0.1)
    errors = [float((ends.send(0) - difference()).norm()) for _ in range(11)]
    assert all(later < earlier or later == 0 for earlier, later in pairwise(errors))
    assert errors[-1] == 0


def test_ef21_is_the_papers_rule() -> None:
    """On the large tensors g + C(Δ - g), with C by a plain sort."""
    ends = Ends(0.05)
    large = torch.cat([torch.full((size,), size >= SMALL) for size in SIZES])
    g = torch.zeros(int(large.sum()), dtype=torch.float64)
    for seed in range(6):
        x = difference(seed=seed)[large].double()
        order = (x - g).abs().argsort(descending=True)[: -(-len(g) // 20)]
        g[order] += (x - g)[order]
        torch.testing.assert_close(ends.send(seed)[large].double(), g, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("lose", ["client", "server", "reply"])
def test_both_ends_of_ef21_stay_together(lose: str) -> None:
    ends = Ends(0.05)
    ends.send(0)
    if lose == "reply":
        ends.send(1, lost=True)
    else:
        getattr(ends, lose).vectors.clear()
    fresh = Ends(0.05)
    assert torch.equal(ends.send(2), fresh.send(2))  # both begin anew
    assert torch.equal(ends.send(3), fresh.send(3))  # and go on together
    assert torch.equal(ends.client.vectors[STATE], ends.server.vectors[STATE])


def test_a_frame_that_adds_to_something_else_is_refused() -> None:
    ends = Ends(0.05)
    ends.send(0)
    array = ends.codec.encode(difference(seed=1), SIZES, draws(), ends.client, ends.codec.base(ends.server))
    ends.server.vectors[STATE][5] += 1
    with pytest.raises(WireError, match="the server holds"):
        ends.codec.decode(array, SIZES, ends.server)


# ---- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "changed"),
    [
        ("codec", {"name": "int8"}),
        ("codec-levels", {"levels": 0}),
        ("codec-levels", {"levels": -7}),
        ("codec-levels", {"levels": 2**23}),
        ("codec-levels", {"levels": 5000, "entropy": "range"}),
        ("codec-levels", {"levels": 2.5}),
        ("codec-levels", {"levels": True}),
        ("codec-norm", {"norm": "l1"}),
        ("codec-scale", {"scale": "row"}),
        ("codec-block", {"block": 0}),
        ("codec-entropy", {"entropy": "huffman"}),
        ("codec-share", {"share": 0.0}),
        ("codec-share", {"share": 1.01}),
        ("codec-share", {"share": float("nan")}),
        ("codec-share", {"share": "all"}),
        ("codec-small", {"small": -1}),
    ],
)
def test_a_setting_that_cannot_be_used(key: str, changed: dict[str, object]) -> None:
    with pytest.raises(SettingError) as caught:
        CodecSettings(**changed)  # type: ignore[arg-type]
    assert caught.value.key == key


@pytest.mark.parametrize(
    "text",
    [
        "int8",
        "",
        "qsgd",
        "{",
        "[]",
        "{}",
        '{"name": "qsgd"}',
        '{"name": "topk", "share": 2, "small": 0}',
        '{"name": "topk", "share": 0.1, "small": 0, "more": 1}',
        '{"name": "float32", "levels": 3}',
        '{"name": ["topk"]}',
        '{"name": "topk", "share": null, "small": 0}',
        "{" * 5000,
    ],
)
def test_a_codec_that_this_end_does_not_speak(text: str) -> None:
    with pytest.raises(WireError) as caught:
        codec_from(text)
    line = str(caught.value)
    assert all(name in line for name in CODECS)
    assert "\n" not in line


@hypothesis_settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 300), max_size=6), st.sampled_from(EVERY), st.integers(0, 400), st.integers(0, 2**32))
def test_any_part_comes_back_whole(sizes: list[int], settings: CodecSettings, small: int, seed: int) -> None:
    """Twice the same from the frame alone, and of the codec's accuracy."""
    codec = codec_of(replace(settings, small=small))
    x = difference(sizes, seed) if sizes else torch.zeros(0)
    array = codec.encode(x, sizes, draws(seed), Kept())
    once, again = (codec.decode(array, sizes, Kept()).flat for _ in range(2))
    assert torch.equal(once, again)
    if settings.name == "qsgd" and settings.levels == 2**20:
        torch.testing.assert_close(once, x, rtol=0, atol=2e-6 * float(x.norm()) + 1e-30)
