"""Imported by the fork server before all else: when its master has gone it ends, and takes nothing apart.

That would take a second, in which it keeps the output open that it shares with the command. Any other process that
imports this ends as it always does.
"""

import atexit
import os
import sys

if any("multiprocessing.forkserver" in word for word in sys.orig_argv):  # how multiprocessing starts one
    atexit.register(os._exit, 0)  # the first to be registered is the last to be called
