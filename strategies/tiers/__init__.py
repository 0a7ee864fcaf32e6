"""How much of the network a device can carry: told, drawn or measured."""
