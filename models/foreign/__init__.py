"""Networks that are written without `Builder`: their axes are found in the graph that PyTorch exports, and proved."""
