"""The stages beside training: a device makes keys, shares its secrets among its group, and opens sums."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client_app.secure.session import KEYS, MASKED, SHARED, Session, forget, session_at
from protocol import WireError
from protocol.secure.flwr_blocks import create_shares, encrypt, share_keys_plaintext_concat
from protocol.secure.keys import new_pair, private_key, public_key, sealing_key
from protocol.secure.masks import SEED_BYTES
from protocol.secure.messages import KeysReply, KeysRequest, SharesReply, SharesRequest, UnmaskReply, UnmaskRequest


def add_stages(app: ClientApp, mods: Sequence[Any] = ()) -> None:
    """Let a ClientApp answer the stages of secure aggregation."""
    for kind, request, answer in (
        ("secure_keys", KeysRequest, answer_keys),
        ("secure_shares", SharesRequest, answer_shares),
        ("secure_unmask", UnmaskRequest, answer_unmask),
    ):
        app.query(kind, mods=list(mods))(partial(_answered, request, answer))


def _answered(request: Any, answer: Any, message: Message, context: Context) -> Message:
    return Message(content=answer(request.from_record(message.content), context).to_record(), reply_to=message)


def answer_keys(request: KeysRequest, context: Context) -> KeysReply:
    """Begin a session with new keys; one that was under way is forgotten."""
    (mask_secret, mask_public), (seal_secret, seal_public) = new_pair(), new_pair()
    Session(
        session=request.session,
        mask_secret=mask_secret,
        seal_secret=seal_secret,
        mask_public=mask_public,
        seal_public=seal_public,
    ).keep(context)
    return KeysReply(nonce=request.nonce, mask_key=mask_public, seal_key=seal_public)


def answer_shares(request: SharesRequest, context: Context) -> SharesReply:
    """Share the seed of the own mask and the private mask key, each so that `threshold` members can open it.

    Raises:
        WireError: no such session, or keys that are not those of a group that this device is in.
    """
    held = session_at(context, request.session, KEYS)
    own, count = request.position, len(request.mask_keys)
    every = (*request.mask_keys, *request.seal_keys)
    if len(set(every)) != len(every):
        raise WireError("secure aggregation: two members have one key")
    if (request.mask_keys[own], request.seal_keys[own]) != (held.mask_public, held.seal_public):
        raise WireError("secure aggregation: the keys at this device's position are not its own")
    seed = secrets.token_bytes(SEED_BYTES)
    seeds = create_shares(seed, request.threshold, count)
    keys = create_shares(held.mask_secret.encode("ascii"), request.threshold, count)
    seal = private_key(held.seal_secret.encode("ascii"), held.seal_public)
    envelopes = [
        ""
        if other == own
        else encrypt(
            sealing_key(seal, public_key(request.seal_keys[other])),
            share_keys_plaintext_concat(own, other, seeds[other], keys[other]),
        ).decode("ascii")
        for other in range(count)
    ]
    replace(
        held,
        stage=SHARED,
        position=own,
        threshold=request.threshold,
        mask_keys=request.mask_keys,
        seal_keys=request.seal_keys,
        seed=seed.hex(),
        seed_share=seeds[own].hex(),
        secret_share=keys[own].hex(),
    ).keep(context)
    return SharesReply(nonce=request.nonce, envelopes=tuple(envelopes))


def answer_unmask(request: UnmaskRequest, context: Context) -> UnmaskReply:
    """Give shares of the survivors' seeds and of the others' private mask keys; of nobody both, and once only.

    Raises:
        WireError: no such session, or too few survivors for their sum to be read.
    """
    held = session_at(context, request.session, MASKED)
    survivors = set(request.survivors)
    if not survivors <= set(held.senders) or held.position not in survivors or len(survivors) < held.threshold:
        raise WireError(f"secure aggregation: {len(survivors)} survivors, expected {held.threshold} or more senders")
    forget(context)
    each = zip(held.senders, held.seed_shares, held.secret_shares, strict=True)
    return UnmaskReply(nonce=request.nonce, shares=tuple(seed if one in survivors else key for one, seed, key in each))
