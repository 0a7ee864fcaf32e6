"""Speed and memory, each against a floor that is measured in the same run.

Bare seconds say more about a machine and its neighbours than about the code, so every claim is a ratio. Measured and
floor are taken in turns, and a ratio is the median over the turns.
"""
