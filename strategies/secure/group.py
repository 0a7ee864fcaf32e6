"""One group of devices that train the same part, and the sum of what they send.

The server holds the sum of masked replies modulo 2^32 and no reply by itself. What opens it comes from the devices
once their replies are in: shares of the seeds of those whose reply came, and of the mask keys of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from protocol import WireError, decode
from protocol.secure.fixed_point import NUMBERS, Floats, sum_of
from protocol.secure.flwr_blocks import combine_shares
from protocol.secure.keys import mask_key, private_key, public_key
from protocol.secure.masks import SEED_BYTES, Masked, mask
from protocol.secure.messages import KeysReply, SecureSum, SharesReply, SharesRequest, UnmaskReply
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.update import ClientUpdate

Weights = tuple[float, float]


class Group:
    """Members by position, in the round's order.

    Args:
        session: its name.
        members: what each of them is asked to train.
        keys: what each of them said.
        least: the fewest devices of a sum.
        weights: by member, numerator and denominator of its difference.

    Attributes:
        session, members, weights: see above.
        threshold: so many members have to stay, and so many shares open a secret: more than half.
        arrived: position → the reply, without its vector.
    """

    def __init__(
        self,
        session: str,
        members: Sequence[TrainAssignment],
        keys: Sequence[KeysReply],
        *,
        least: int,
        weights: Sequence[Weights],
    ) -> None:
        self.session, self.members, self.weights = session, tuple(members), tuple(weights)
        self.threshold = max(least, len(members) // 2 + 1)
        self.arrived: dict[int, ClientUpdate] = {}
        self._keys = tuple(keys)
        self._envelopes: dict[int, tuple[str, ...]] = {}
        self._total: Masked = np.zeros(members[0].part.numel + len(NUMBERS), dtype=np.uint32)

    # ---- before training ---------------------------------------------------------------------------------------------

    def shares_request(self, position: int, nonce: str) -> SharesRequest:
        """Ask a member for its shares."""
        return SharesRequest(
            nonce=nonce,
            session=self.session,
            position=position,
            threshold=self.threshold,
            mask_keys=tuple(one.mask_key for one in self._keys),
            seal_keys=tuple(one.seal_key for one in self._keys),
        )

    def take_shares(self, position: int, reply: SharesReply) -> None:
        """Keep what a member made for the others; it can be read by them only.

        Raises:
            WireError: it is not one for each.
        """
        filled = [other for other, envelope in enumerate(reply.envelopes) if envelope]
        others = [other for other in range(len(self.members)) if other != position]
        if len(reply.envelopes) != len(self.members) or filled != others:
            raise WireError(f"{len(filled)} envelopes: expected one for each of {len(others)} others")
        self._envelopes[position] = reply.envelopes

    @property
    def senders(self) -> list[int]:
        """Members that made shares, ascending; they are asked to train."""
        return sorted(self._envelopes)

    def told(self, position: int, clip: float) -> SecureSum:
        """What a sender's request to train says."""
        return SecureSum(
            session=self.session,
            senders=tuple(self.senders),
            envelopes=tuple(self._envelopes[sender][position] for sender in self.senders),
            weight=self.weights[position][0] / self._largest,
            share=_examples(self.members[position]) / self._most,
            clip=clip,
        )

    @property
    def _largest(self) -> float:
        return max(numerator for numerator, _ in self.weights)

    @property
    def _most(self) -> float:
        return max(map(_examples, self.members))

    # ---- replies -----------------------------------------------------------------------------------------------------

    def take(self, position: int, update: ClientUpdate) -> None:
        """Add a masked reply to the sum.

        Raises:
            WireError: no vector of whole numbers of the right length.
        """
        assert update.array is not None  # a reply to train has one
        self._total += decode(update.array, len(self._total), "uint32").numpy()
        self.arrived[position] = replace(update, array=None)

    # ---- the sum -----------------------------------------------------------------------------------------------------

    @property
    def survivors(self) -> list[int]:
        """Members whose masked reply came, ascending."""
        return sorted(self.arrived)

    def check_opened(self, position: int, reply: UnmaskReply) -> None:
        """See whether a member's shares can be what they should.

        Raises:
            WireError: not one for each sender, or of another length or for another position.
        """
        if len(reply.shares) != len(self.senders):
            raise WireError(f"{len(reply.shares)} shares: expected one for each of {len(self.senders)} senders")
        seed = 4 + SEED_BYTES + 16  # the index, and the seed padded to blocks of 16 bytes
        for sender, share in zip(self.senders, map(bytes.fromhex, reply.shares), strict=True):
            fits = len(share) == seed if sender in self.arrived else len(share) > seed and len(share) % 16 == 4
            if not fits or int.from_bytes(share[:4], "little") != position + 1:
                raise WireError(f"{len(share)} bytes are no share of sender {sender} for this device")

    def open(self, replies: Mapping[int, UnmaskReply], clip: float) -> tuple[Floats, Mapping[str, float], int | None]:
        """Take the masks off the sum.

        Args:
            replies: position → shares that were checked, of at least `threshold` survivors.
            clip: what devices clipped to.

        Returns:
            Σ a Δ over the survivors, the means of `NUMBERS` over their examples, and whose shares were wrong: one
            member, if the others' open the sum without it.

        Raises:
            ValueError: some share was wrong, or what came under the masks is no sum of clipped differences.
        """
        try:
            return *self._opened(sorted(replies)[: self.threshold], replies, clip), None
        except Exception:  # whatever a wrong share comes to
            for one in sorted(replies)[: self.threshold] if len(replies) > self.threshold else ():
                with suppress(Exception):
                    others = [other for other in sorted(replies) if other != one]
                    return *self._opened(others[: self.threshold], replies, clip), one
            raise

    def _opened(
        self, positions: Sequence[int], replies: Mapping[int, UnmaskReply], clip: float
    ) -> tuple[Floats, Mapping[str, float]]:
        """The sum, by the shares of some members."""
        shares = [tuple(map(bytes.fromhex, replies[one].shares)) for one in positions]
        secrets = [combine_shares([row[column] for row in shares]) for column in range(len(self.senders))]
        total = self._total.copy()
        for sender, secret in zip(self.senders, secrets, strict=True):
            if sender not in self.arrived:
                self._take_off_pairs(total, sender, secret)
            elif len(secret) == SEED_BYTES:
                total -= mask(secret, len(total))
            else:
                raise ValueError(f"the shares of sender {sender} give no seed")
        summed, numbers = sum_of(total, len(self.arrived), clip)
        examples = sum(_examples(self.members[one]) for one in self.survivors)
        return summed * self._largest, {name: value * self._most / examples for name, value in numbers.items()}

    def _take_off_pairs(self, total: Masked, dropped: int, secret: bytes) -> None:
        """Take off what the survivors added for a sender whose reply did not come."""
        private = private_key(secret, self._keys[dropped].mask_key)
        for survivor in self.survivors:
            common = mask(mask_key(private, public_key(self._keys[survivor].mask_key)), len(total))
            if dropped < survivor:  # as the survivor's own half has it
                total -= common
            else:
                total += common


def _examples(member: TrainAssignment) -> float:
    return float(member.node.hello.examples)
