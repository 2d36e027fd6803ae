"""One file per kind of data: its rows, and what must hold for them."""
