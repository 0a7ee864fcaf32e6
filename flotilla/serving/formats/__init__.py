"""A tier in one file of another library's: how it is made of the network, and the runtime that runs it back."""
