"""Imported by the fork server before all else: when its master has gone it ends, and takes nothing apart.

That would take a second, in which it keeps the output open that it shares with the command.
"""

import atexit
import os

atexit.register(os._exit, 0)  # the first to be registered is the last to be called
