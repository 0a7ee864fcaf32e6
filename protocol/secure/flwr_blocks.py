"""What secure aggregation borrows of Flower: key agreement, secret sharing, encryption, and the quantiser.

flwr does not promise these modules. They come through this file and no other way, and a test holds every symbol
against what is relied on (tests/flotilla/flwr_compat). Keys and shares are drawn from the operating system's generator.
"""

from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, encrypt, generate_shared_key
from flwr.common.secure_aggregation.quantization import dequantize, quantize
from flwr.common.secure_aggregation.secaggplus_utils import share_keys_plaintext_concat, share_keys_plaintext_separate
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)

__all__ = [
    "bytes_to_private_key",
    "bytes_to_public_key",
    "combine_shares",
    "create_shares",
    "decrypt",
    "dequantize",
    "encrypt",
    "generate_key_pairs",
    "generate_shared_key",
    "private_key_to_bytes",
    "public_key_to_bytes",
    "quantize",
    "share_keys_plaintext_concat",
    "share_keys_plaintext_separate",
]
