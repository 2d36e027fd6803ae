"""Many graphs of different size, each of one class.

`labels` and `split` uint8 `(n,)`; of all graphs one after another `features` float32
`(nodes, f)` and `edges` int32 `(edges, 2)`, source and target numbered from 0 within their graph;
`node_offsets` and `edge_offsets` int64 `(n + 1,)` say where each graph begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.data.card import Dataset, Split


class Data(Dataset):
    """Features, adjacency and sizes in, class numbers out."""

    ARRAYS = ("labels", "split")
    MORE_ARRAYS = ("features", "edges", "node_offsets", "edge_offsets")

    def inputs(self, chosen: NDArray[np.intp]) -> Any:
        """Return `features` `(b, n, f)`, `adjacency` `(b, n, n)` and `sizes` `(b,)`.

        Graphs are padded with empty nodes to the largest of the chosen ones. The adjacency is 1
        where an edge leads from the node of the row to that of the column, and has no self-loops.
        """
        nodes, edges = self.arrays["node_offsets"], self.arrays["edge_offsets"]
        sizes = np.asarray(nodes[chosen + 1] - nodes[chosen])
        largest = int(sizes.max(initial=0))
        source = self.arrays["features"]
        features = np.zeros((len(chosen), largest, source.shape[1]), np.float32)
        adjacency = np.zeros((len(chosen), largest, largest), np.float32)
        for place, graph in enumerate(chosen):
            features[place, : sizes[place]] = source[nodes[graph] : nodes[graph + 1]]
            pairs = self.arrays["edges"][edges[graph] : edges[graph + 1]]
            adjacency[place, pairs[:, 0], pairs[:, 1]] = 1
        diagonal = np.arange(largest)
        adjacency[:, diagonal, diagonal] = 0
        return {
            "features": features,
            "adjacency": adjacency,
            "sizes": sizes.astype(np.int32),
        }

    def input_shapes(self) -> Any:
        """Return shape and dtype of each input."""
        return {
            "features": ((None, None, self.arrays["features"].shape[1]), "float32"),
            "adjacency": ((None, None, None), "float32"),
            "sizes": ((None,), "int32"),
        }

    def content(self, split: Split) -> Iterator[bytes]:
        """Yield the bytes of a split's graphs in order, without their padding."""
        nodes, edges = self.arrays["node_offsets"], self.arrays["edge_offsets"]
        chosen = self.indices(split)
        for graph in chosen:
            yield int(nodes[graph + 1] - nodes[graph]).to_bytes(8, "little")
            yield self.arrays["features"][nodes[graph] : nodes[graph + 1]].tobytes()
            yield self.arrays["edges"][edges[graph] : edges[graph + 1]].tobytes()
        yield self.targets(chosen).tobytes()
