"""One file per canonical form of data: which arrays it has, and what models read of them."""
