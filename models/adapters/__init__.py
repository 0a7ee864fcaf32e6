"""Adapters: small tensors that are trained beside a network that is held and not trained."""
