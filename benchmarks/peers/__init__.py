"""Other people's libraries beside ours: the same rounds, each in an environment of its own (`make peers`)."""
