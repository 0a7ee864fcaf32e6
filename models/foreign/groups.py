"""What the axes of a traced module are for: the groups for which tiers may have rates of their own.

Found in the graph of evaluation, as the networks that declare theirs have them:

- heads: it counts independent products of two features with each other, which is what attention does once a head;
- stream: it runs along a sum that every path to the output passes, x + F(x), or a shortcut with a projection;
- mlp, inner: every tensor along it is read on the way to such a sum; `inner` if one of them is a convolution's kernel;
- channels, features: all others; `channels` if a convolution's kernel runs along it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import fx

from models.algebra import groups
from models.foreign.atoms import Atom, Extent, atoms_of
from models.foreign.chain import Chain, chain_of
from models.foreign.trace import Traced, operation

_KERNEL = 3  # dimensions of a convolution's weight, at least
_SUMS = ("add", "add_")
_PRODUCTS = ("matmul", "bmm", "scaled_dot_product_attention")


def find_groups(traced: Traced) -> Mapping[Atom, str]:
    """The group of every atom that a tensor of the module runs along."""
    chain = chain_of(traced.graphs[False], traced.tensors)
    sums = [link for link, node in enumerate(chain.links) if _is_sum(node, chain)]
    stream = {atom for link in sums for atom in _along(traced, chain.links[link])}
    heads = set(_heads(traced, chain))
    inside, outside, kernels = set[Atom](), set[Atom](), set[Atom]()
    for name, held in traced.tensors.items():
        links = chain.readers.get(name, set())
        for place, dim in enumerate(held.dims):
            atoms = set(atoms_of(dim))
            (inside if links and links <= set(sums) else outside).update(atoms)
            if len(held.dims) >= _KERNEL and place < 2:
                kernels |= atoms
    found: dict[Atom, str] = {}
    for atom in inside | outside:
        if atom in heads:
            found[atom] = groups.HEADS
        elif atom in stream:
            found[atom] = groups.STREAM
        elif atom not in outside:
            found[atom] = groups.INNER if atom in kernels else groups.MLP
        else:
            found[atom] = groups.CHANNELS if atom in kernels else groups.FEATURES
    return found


def _is_sum(node: fx.Node, chain: Chain) -> bool:
    features = [one for one in node.all_input_nodes if one in chain.stream]
    return operation(node) in _SUMS and len(features) == 2


def _heads(traced: Traced, chain: Chain) -> Iterator[Atom]:
    """What stands before rows and columns in products of features with each other."""
    for node in chain.stream:
        features = [one for one in node.all_input_nodes if one in chain.stream]
        if operation(node) in _PRODUCTS and len(features) > 1:
            for dim in _dims(traced, node)[:-2]:
                yield from atoms_of(dim)


def _along(traced: Traced, node: fx.Node) -> Iterator[Atom]:
    for dim in _dims(traced, node):
        yield from atoms_of(dim)


def _dims(traced: Traced, node: fx.Node) -> list[Extent]:
    return [dim for dim in traced.dims.get(node) or [] if isinstance(dim, tuple)]
