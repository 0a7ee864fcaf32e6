"""What groups of width axes are called, in the networks that declare theirs and where axes are found.

Tiers may have a rate of its own for each, such as "mlp=1/4 heads=1/2".
"""

STREAM = "stream"  # features that sums go along: the residual stream
HEADS = "heads"  # of attention, or the coordinates of each head
MLP = "mlp"  # inside a residual block, between linear layers
INNER = "inner"  # inside a residual block, between convolutions
CHANNELS = "channels"  # other outputs of convolutions
FEATURES = "features"  # other outputs of linear and recurrent layers
RANK = "rank"  # of pairs of low-rank factors, where the widths of their base are cut as well
