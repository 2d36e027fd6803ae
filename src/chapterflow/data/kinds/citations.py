"""One graph whose nodes are the examples, each of one class.

`labels` and `split` uint8 `(n,)`, where split code 3 means in no split; `features` float32
`(n, f)`; `edges` int32 `(edges, 2)`, source and target.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.data.card import Dataset, DatasetCard, Split


class Data(Dataset):
    """The whole graph in, class numbers of nodes out."""

    ARRAYS = ("labels", "split")
    MORE_ARRAYS = ("features", "edges")
    WHOLE = True

    @classmethod
    def expected_count(cls, card: DatasetCard) -> int:
        """Return the number of nodes: some are in no split."""
        return int(card.facts["nodes"])

    def inputs(self, chosen: NDArray[np.intp]) -> Any:
        """Return dense `features` `(n, f)` and `adjacency` `(n, n)` of the whole graph.

        A node's class depends on its neighbours, so whatever is chosen, models read all of it;
        `sparse_inputs` of `chapterflow.training.full_batch` gives the same without the zeros.
        """
        count = self.count
        adjacency = np.zeros((count, count), np.float32)
        edges = np.asarray(self.arrays["edges"])
        adjacency[edges[:, 0], edges[:, 1]] = 1
        np.fill_diagonal(adjacency, 0)
        return {"features": np.array(self.arrays["features"]), "adjacency": adjacency}

    def example(self) -> Any:
        """Return the graph of the first eight nodes: the whole adjacency is megabytes as text."""
        whole = self.inputs(self.indices("train"))
        return {"features": whole["features"][:8], "adjacency": whole["adjacency"][:8, :8]}

    def input_shapes(self) -> Any:
        """Return shape and dtype of each input."""
        return {
            "features": ((None, self.arrays["features"].shape[1]), "float32"),
            "adjacency": ((None, None), "float32"),
        }

    def content(self, split: Split) -> Iterator[bytes]:
        """Yield the bytes of the whole graph, and which nodes with which classes are scored."""
        chosen = self.indices(split)
        yield np.ascontiguousarray(self.arrays["features"]).tobytes()
        yield np.ascontiguousarray(self.arrays["edges"]).tobytes()
        yield chosen.astype(np.int64).tobytes()
        yield self.targets(chosen).tobytes()
