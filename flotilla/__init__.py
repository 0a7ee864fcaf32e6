"""One global network, trained across devices of any size: submodel federated learning on Flower."""

from importlib.util import find_spec

if find_spec("flotilla._checkout"):  # in a wheel the packages stand here, in a checkout beside this folder
    from flotilla import _checkout

    _checkout.install()
