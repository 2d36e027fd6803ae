"""Sources -> canonical arrays in `data/<name>/` with a card -> memory-mapped datasets."""
