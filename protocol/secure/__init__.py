"""Secure aggregation: what both halves share, so that a server learns sums and no single reply.

The protocol is that of Bonawitz et al. (CCS 2017, "Practical Secure Aggregation for Privacy-Preserving Machine
Learning"), in the form that does not sign keys: `messages` are its stages, `fixed_point` makes whole numbers of
differences, `masks` hides them, and `flwr_blocks` holds what is borrowed of Flower for it.
"""
