"""What every worker needs, imported once in the process that they are forked from (`flotilla.local.start`)."""

import torch  # noqa: F401

from client_app.app import app  # noqa: F401
from flotilla.local.worker import work  # noqa: F401
