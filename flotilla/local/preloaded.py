"""What every worker needs, imported once in the process that they are forked from (`flotilla.local.start`)."""

import torch  # noqa: F401

import client_app.app  # noqa: F401
import flotilla.local.worker  # noqa: F401
