"""The server's half of secure aggregation: groups that are summed, and how a sum is opened."""
