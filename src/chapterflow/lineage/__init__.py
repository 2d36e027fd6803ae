"""Where a model comes from, and whether it can be made again."""
