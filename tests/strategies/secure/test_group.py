"""A group's sum: right to the quantiser's error, whoever drops out; nothing less than the sum can be read."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from unittest.mock import patch

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.randomness import generator
from protocol import WireError, decode, encode
from protocol.secure.fixed_point import LEVELS, NUMBERS, quantised, step
from protocol.secure.keys import new_pair
from protocol.secure.messages import SharesReply, UnmaskReply
from strategies.exchange.update import ClientUpdate
from tests.strategies.secure.devices import CLIP, PART, Devices, vectors


def test_the_sum_is_that_of_the_differences() -> None:
    devices, plain = Devices(3), vectors(3)
    for i, vector in enumerate(plain):
        devices.send(i, vector, loss=float(i), accuracy=i / 4)
    summed, numbers = devices.open(range(3))
    assert np.abs(summed - sum(plain)).max() < 3 * step(CLIP) + 1e-6  # a float32 difference has an error of its own
    assert numbers == {"loss": pytest.approx(1.0, abs=1e-4), "accuracy": pytest.approx(0.25, abs=1e-5)}


def test_a_coordinate_moves_by_the_clip_at_most() -> None:
    devices, plain = Devices(3), vectors(3)
    plain[0][:4] = (100, -100, CLIP, -CLIP)
    for i, vector in enumerate(plain):
        devices.send(i, vector)
    summed, _ = devices.open(range(3))
    plain[0][:2] = (CLIP, -CLIP)
    assert np.abs(summed - sum(plain)).max() < 3 * step(CLIP) + 1e-6


def test_what_nobody_changed_is_exactly_zero() -> None:
    devices = Devices(3)
    for i in range(3):
        devices.send(i, np.zeros(PART.numel))
    assert not devices.open(range(3))[0].any()


def test_weights_and_examples_count() -> None:
    """a = 1, 2, 4 for the difference; 10, 20, 40 examples for the loss."""
    devices = Devices(3, weights=[(1.0, 1.0), (2.0, 2.0), (4.0, 4.0)], examples=[10, 20, 40])
    plain = vectors(3)
    for i, vector in enumerate(plain):
        devices.send(i, vector, loss=float(i + 1))
    summed, numbers = devices.open(range(3))
    wanted = plain[0] + 2 * plain[1] + 4 * plain[2]
    assert np.abs(summed - wanted).max() < 4 * 3 * step(CLIP) + 1e-5
    assert numbers["loss"] == pytest.approx((10 * 1 + 20 * 2 + 40 * 3) / 70, abs=1e-3)


@pytest.mark.parametrize(("dropped", "silent"), [((0,), ()), ((), (4,)), ((1,), (4,)), ((0, 3), ()), ((), (0, 1))])
def test_who_drops_out_before_its_reply_or_after_it(dropped: tuple[int, ...], silent: tuple[int, ...]) -> None:
    """Of five, three are enough: the sum is of those whose reply came, whoever of them opens it."""
    devices, plain = Devices(5), vectors(5)
    there = [i for i in range(5) if i not in dropped]
    for i in there:
        devices.send(i, plain[i])
    summed, _ = devices.open(i for i in there if i not in silent)
    assert np.abs(summed - sum(plain[i] for i in there)).max() < 5 * step(CLIP) + 1e-6


def test_who_shares_no_secrets_is_not_in_the_sum() -> None:
    devices, plain = Devices(4, sharing=(0, 2, 3)), vectors(4)
    assert devices.group.senders == [0, 2, 3]
    for i in (0, 2, 3):
        devices.send(i, plain[i])
    summed, _ = devices.open((0, 2, 3))
    assert np.abs(summed - plain[0] - plain[2] - plain[3]).max() < 4 * step(CLIP) + 1e-6


@pytest.mark.parametrize(("count", "least", "threshold"), [(3, 2, 2), (4, 2, 3), (5, 4, 4), (9, 3, 5)])
def test_more_than_half_have_to_stay_and_the_least(count: int, least: int, threshold: int) -> None:
    assert Devices(count, least=least, sharing=()).group.threshold == threshold


def test_devices_open_nothing_of_too_few() -> None:
    devices, plain = Devices(5), vectors(5)
    for i in (0, 1):
        devices.send(i, plain[i])
    with pytest.raises(WireError, match="2 survivors, expected 3"):
        devices.opened(0)


def test_shares_of_too_few_open_nothing() -> None:
    devices, plain = Devices(5), vectors(5)
    for i in range(5):
        devices.send(i, plain[i])
    replies = {i: devices.opened(i) for i in (0, 1)}  # a server that is content with two of the three
    with pytest.raises(ValueError, match=r"shares|sum is not|padd"):
        devices.group.open(replies, CLIP)


@pytest.mark.parametrize("liar", [0, 1])
def test_a_wrong_share_is_done_without(liar: int) -> None:
    """Where others' shares suffice; of who opens a sum nobody else can tell."""
    devices, plain = Devices(3), vectors(3)
    for i in range(3):
        devices.send(i, plain[i])
    replies = {i: devices.opened(i) for i in range(3)}
    shares = list(replies[liar].shares)
    wrong = bytearray.fromhex(shares[1])
    wrong[10] ^= 1
    replies[liar] = UnmaskReply(nonce="n", shares=(shares[0], wrong.hex(), shares[2]))
    devices.group.check_opened(liar, replies[liar])
    summed, _, named = devices.group.open(replies, CLIP)
    assert named == liar
    assert np.abs(summed - sum(plain)).max() < 3 * step(CLIP) + 1e-5
    with pytest.raises(ValueError, match=r"shares|sum is not"):
        devices.group.open({i: replies[i] for i in (0, 1)}, CLIP)


def test_what_does_not_lie_within_the_clip_is_no_sum() -> None:
    """A device that sends what it likes under its masks moves the sum by no more than clipped differences could."""
    devices, plain = Devices(3), vectors(3)
    with patch("client_app.secure.masked.quantised", lambda *_, **__: np.full(PART.numel + 2, 2**31, np.uint32)):
        devices.send(0, plain[0])
    for i in (1, 2):
        devices.send(i, plain[i])
    with pytest.raises(ValueError, match="not that of 3 clipped differences"):
        devices.open(range(3))


# ---- what can be read ------------------------------------------------------------------------------------------------


def sent(devices: Devices) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.uint32]]]:
    """Masked and plain, of each device."""
    for i, vector in enumerate(vectors(len(devices.contexts))):
        held: list[NDArray[np.uint32]] = []

        def remembered(*arguments: object, held: list[NDArray[np.uint32]] = held, **named: object) -> object:
            held.append(quantised(*arguments, **named).copy())  # type: ignore[arg-type]
            return held[0].copy()

        with patch("client_app.secure.masked.quantised", remembered):
            array = devices.masked(i, vector)
        yield decode(array, PART.numel + len(NUMBERS), "uint32").numpy(), held[0]


def uniform(numbers: NDArray[np.uint32]) -> bool:
    """Whether every byte looks as if by chance: chi-square of 256 bins within eight deviations, 255 ± 8·√510."""
    for place in range(4):
        counts = np.bincount((numbers >> (8 * place)) & 255, minlength=256)
        wanted = len(numbers) / 256
        if abs(((counts - wanted) ** 2 / wanted).sum() - 255) > 8 * 510**0.5:
            return False
    return True


def test_no_reply_and_no_sum_of_some_says_anything() -> None:
    """The server's best case: it sees every masked reply. Only the sum of all, less the own masks, is not chance."""
    each = list(sent(Devices(4)))
    repeats = [list(sent(Devices(4))) for _ in range(4)]
    everything = [each, *repeats]
    for some in (ones for size in (1, 2, 3, 4) for ones in combinations(range(4), size)):
        together = np.concatenate([sum(run[i][0] for i in some) for run in everything])
        assert uniform(together), some
        plain = np.concatenate([sum(run[i][1] for i in some) for run in everything])
        assert not uniform(plain)
    for masked, plain in each:
        assert (masked != plain).mean() > 0.999


def test_masks_are_not_of_the_seed() -> None:
    """The same devices with the same draws: other masks, and the same sum, bit for bit."""
    one, other = Devices(3), Devices(3)
    plain = vectors(3)
    arrays = [[devices.masked(i, plain[i]) for i in range(3)] for devices in (one, other)]
    for a, b in zip(*arrays, strict=True):
        assert a.data != b.data
    for devices, found in zip((one, other), arrays, strict=True):
        for i, array in enumerate(found):
            devices.group.take(i, ClientUpdate(metrics={}, array=array))
    assert (one.open(range(3))[0] == other.open(range(3))[0]).all()


# ---- what devices refuse ---------------------------------------------------------------------------------------------


def test_no_two_vectors_leave_under_one_mask() -> None:
    devices, plain = Devices(3), vectors(3)
    devices.masked(0, plain[0])
    with pytest.raises(WireError, match="not at this stage"):
        devices.masked(0, plain[1])


def test_a_session_is_opened_once() -> None:
    devices, plain = Devices(3), vectors(3)
    for i in range(3):
        devices.send(i, plain[i])
    devices.opened(0)
    with pytest.raises(WireError, match="no such session"):
        devices.opened(0)


def test_keys_that_are_not_the_devices_own() -> None:
    devices = Devices(3, sharing=())
    devices.contexts[0], devices.contexts[1] = devices.contexts[1], devices.contexts[0]
    with pytest.raises(WireError, match="not its own"):
        devices.share(0)


def test_one_key_for_two_members() -> None:
    devices = Devices(3, sharing=())
    devices.group._keys = (devices.group._keys[0], devices.group._keys[1], devices.group._keys[1])
    with pytest.raises(WireError, match="one key"):
        devices.share(0)


def test_a_session_that_began_anew_is_another_one() -> None:
    devices = Devices(3)
    devices.contexts[0].state.clear()  # as after a restart
    with pytest.raises(WireError, match="no such session"):
        devices.masked(0, vectors(1)[0])


def test_what_another_encrypted_for_somebody_else() -> None:
    devices = Devices(3)
    rows = devices.group._envelopes
    rows[1] = (rows[1][2], "", rows[1][0])
    with pytest.raises(WireError, match=r"what senders \[1\] encrypted cannot be read"):
        devices.masked(0, vectors(1)[0])


# ---- what the server refuses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("array", [torch.zeros(PART.numel), torch.zeros(PART.numel + 2), torch.zeros(1)])
def test_a_reply_that_is_not_masked(array: torch.Tensor) -> None:
    devices = Devices(3)
    with pytest.raises(WireError, match="expected uint32"):
        devices.group.take(0, ClientUpdate(metrics={}, array=encode(array)))
    assert devices.group.survivors == []


@pytest.mark.parametrize("envelopes", [(), ("", "x"), ("x", "y", "z"), ("", "", "y"), ("", "x", "y", "z")])
def test_shares_that_are_not_one_for_each(envelopes: tuple[str, ...]) -> None:
    devices = Devices(3, sharing=())
    with pytest.raises(WireError, match="envelopes"):
        devices.group.take_shares(0, SharesReply(nonce="n", envelopes=envelopes))
    assert devices.group.senders == []


def test_shares_that_open_nothing() -> None:
    devices, plain = Devices(3), vectors(3)
    for i in (0, 1):
        devices.send(i, plain[i])
    good = devices.opened(0)
    seed, other, key = good.shares
    for shares in ((), (seed, other), (seed, other, seed), (key, other, key), (seed[:-2], other, key)):
        with pytest.raises(WireError, match="share"):
            devices.group.check_opened(0, UnmaskReply(nonce="n", shares=shares))
    with pytest.raises(WireError, match="for this device"):
        devices.group.check_opened(1, good)


def test_a_key_that_is_not_the_one_that_was_said() -> None:
    """Somebody's shares open another private key than its member had: no sum."""
    devices, plain = Devices(3), vectors(3)
    for i in (0, 1):
        devices.send(i, plain[i])
    with (
        patch("strategies.secure.group.combine_shares", lambda _: new_pair()[0].encode()),
        pytest.raises(ValueError, match=r"no seed|not the private key"),
    ):
        devices.open((0, 1))


def test_rounding_is_by_chance_and_by_the_seed() -> None:
    """Unbiased, less than a step away, and the draws of (seed, round, node)."""
    x = np.full(20_000, 0.3 * step(CLIP))
    told = {"weight": 1.0, "share": 1.0, "clip": CLIP}
    one = quantised(x, np.zeros(2), **told, draws=generator(1, 1, 0, "codec"))
    assert (one == quantised(x, np.zeros(2), **told, draws=generator(1, 1, 0, "codec"))).all()
    assert (one != quantised(x, np.zeros(2), **told, draws=generator(1, 2, 0, "codec"))).any()
    levels = one[:-2].astype(np.int64) - LEVELS // 2
    assert set(levels.tolist()) == {0, 1}
    assert levels.mean() == pytest.approx(0.3, abs=6 * (0.21 / 20_000) ** 0.5)


def test_numpys_own_generator_is_as_it_was() -> None:
    before = np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    quantised(np.zeros(3), np.zeros(2), weight=1.0, share=1.0, clip=CLIP, draws=generator(1, 1, 0, "codec"))
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]  # noqa: NPY002


def test_a_difference_that_is_not_finite_is_not_sent() -> None:
    devices, vector = Devices(3), vectors(1)[0]
    vector[3] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        devices.masked(0, vector)
