"""Which nodes there are, who is there in a round, and what was learnt of them."""
