"""The server half: a ServerApp that checks the run configuration and drives a strategy through its rounds."""
