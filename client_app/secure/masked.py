"""A difference under masks: what a device sends where only the sum of a group may be read.

    masked = quantised + mask(own seed) + Σ mask(key with j), of the others j before it, - Σ of those behind it

modulo 2^32. In the sum over all senders the masks of pairs cancel; what survivors' shares open is the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from cryptography.fernet import InvalidToken
from flwr.app import Array, Context, RecordDict
from torch import Tensor

from client_app.secure.session import MASKED, SHARED, Session, session_at
from protocol import Reply, WireError, encode
from protocol.secure.fixed_point import NUMBERS, quantised
from protocol.secure.flwr_blocks import decrypt, share_keys_plaintext_separate
from protocol.secure.keys import mask_key, private_key, public_key, sealing_key
from protocol.secure.masks import Masked, mask
from protocol.secure.messages import SecureSum, SumRefusal


class Unreadable(WireError):
    """Some senders' shares cannot be read.

    Attributes:
        senders: their positions, ascending.
    """

    def __init__(self, senders: tuple[int, ...]) -> None:
        super().__init__(f"secure aggregation: what senders {list(senders)} encrypted cannot be read")
        self.senders = senders


def or_refusal(nonce: str, answer: Callable[[], Reply]) -> RecordDict:
    """What a device answers to a request to train: a reply, or whose shares are in the way of masking it."""
    try:
        return answer().to_record()
    except Unreadable as error:
        return SumRefusal(nonce=nonce, unreadable=error.senders).to_record()


def masked(
    request: SecureSum,
    held: Session,
    context: Context,
    difference: Tensor,
    *,
    numbers: dict[str, float],
    draws: np.random.Generator,
) -> Array:
    """Mask a difference, and the loss and accuracy with it.

    Args:
        request: the session, and what was made for this device.
        held: the session as it was `joined` before training.
        context: of the device.
        difference: flat float32 vector on the CPU.
        numbers: by the names in `NUMBERS`; one that is missing counts as 0.
        draws: for rounding.

    Returns:
        A vector of whole numbers (uint32), longer by the numbers.

    Raises:
        WireError: the session is over.
        ValueError: a difference that is not finite.
    """
    session_at(context, request.session, SHARED)
    total = quantised(
        difference.numpy().astype(np.float64),
        np.array([numbers.get(name, 0.0) for name in NUMBERS]),
        weight=request.weight,
        share=request.share,
        clip=request.clip,
        draws=draws,
    )
    _add_masks(total, held)
    # The secrets of the masks have done their work here, and what is left opens no more than the session may.
    replace(held, stage=MASKED, seed="", mask_secret="", seal_secret="").keep(context)
    return encode(torch.from_numpy(total))


def joined(request: SecureSum, context: Context) -> Session:
    """The session with the shares that others made for this device, before it trains for it.

    Raises:
        Unreadable: shares that cannot be read, or are not those of their sender for this device.
        WireError: no such session, or too few senders.
    """
    held = session_at(context, request.session, SHARED)
    if held.position not in request.senders or len(request.senders) < held.threshold:
        raise WireError(f"secure aggregation: {len(request.senders)} senders, expected {held.threshold} or more")
    seal = private_key(held.seal_secret.encode("ascii"), held.seal_public)
    seeds, keys, unreadable = list[str](), list[str](), list[int]()
    for sender, envelope in zip(request.senders, request.envelopes, strict=True):
        if sender == held.position:
            seeds.append(held.seed_share)
            keys.append(held.secret_share)
            continue
        if sender >= len(held.seal_keys):
            raise WireError(f"secure aggregation: {len(held.seal_keys)} members, and no sender {sender}")
        try:
            text = decrypt(sealing_key(seal, public_key(held.seal_keys[sender])), envelope.encode("ascii"))
            source, target, seed, key = share_keys_plaintext_separate(text)
        except (InvalidToken, ValueError):
            unreadable.append(sender)
            continue
        if (source, target) != (sender, held.position):
            unreadable.append(sender)
            continue
        seeds.append(seed.hex())
        keys.append(key.hex())
    if unreadable:
        raise Unreadable(tuple(unreadable))
    return replace(held, senders=request.senders, seed_shares=tuple(seeds), secret_shares=tuple(keys))


def _add_masks(total: Masked, held: Session) -> None:
    """Add the device's own mask, and those that it has in common with the other senders."""
    total += mask(bytes.fromhex(held.seed), len(total))
    secret = private_key(held.mask_secret.encode("ascii"), held.mask_public)
    for other in held.senders:
        if other == held.position:
            continue
        common = mask(mask_key(secret, public_key(held.mask_keys[other])), len(total))
        if other < held.position:
            total += common
        else:
            total -= common
