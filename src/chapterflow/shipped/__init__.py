"""Files that travel with every logged model: they need nothing else of this package."""
