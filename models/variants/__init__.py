"""States that are more than one network: copies by size, nets side by side, masks, clusters."""
