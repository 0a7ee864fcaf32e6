"""Training steps with backward passes of their own: a network's layers, run over buffers that are made once.

Small networks on small batches spend their time between operations, not in them: PyTorch's autograd dispatches some 700
of them for a step of a CNN on 8x8 images, and a convolution needs longer to be set up than to be computed. Here a step
is some 100 operations on tensors that exist already.

Activations are [client, channel, height, width, example], so examples that stand next to each other are computed with
next to each other. A convolution is a copy of runs (its patches) and a matrix product; a batch norm is a group norm
whose groups are single channels; pooling comes before the ReLU, which is the same and a quarter of the work. All
clients of a batch have the same part of the network and the same number of examples in every step; nobody's numbers
depend on who else is there.
"""
