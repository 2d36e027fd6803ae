"""One file per kind of data: its arrays, what models read, its rows and expectations."""
