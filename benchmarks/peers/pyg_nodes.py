"""Kipf & Welling's network in PyTorch Geometric, which classifies the nodes of one graph.

After its introduction by example and `examples/gcn.py`: normalised features, 16 hidden units,
dropout 0.5, Adam at 0.01, weight decay of the first layer, cached normalisation. No validation.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (as its documentation names it)
from torch import Tensor, nn
from torch_geometric.nn import GCNConv

from benchmarks.peers.common import TEST, TRAIN, arrays, options, report, timed


class SparseLinear(nn.Module):
    """A linear map of sparse features, without a bias."""

    def __init__(self, features: int, units: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, units))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(n, units)`."""
        return torch.sparse.mm(x, self.weight)


class GCN(nn.Module):
    """Two graph convolutions."""

    def __init__(self, features: int, classes: int, sparse: bool) -> None:
        super().__init__()
        self.conv1 = GCNConv(features, 16, cached=True)
        self.conv2 = GCNConv(16, classes, cached=True)
        if sparse:
            self.conv1.lin = SparseLinear(features, 16)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Return logits `(n, classes)`."""
        if x.layout == torch.sparse_csr:  # zeros need no dropout
            kept = F.dropout(x.values(), training=self.training)
            x = torch.sparse_csr_tensor(x.crow_indices(), x.col_indices(), kept, x.shape)
        else:
            x = F.dropout(x, training=self.training)
        x = self.conv1(x, edges).relu()
        return self.conv2(F.dropout(x, training=self.training), edges)


def main(words: Sequence[str] | None = None) -> None:
    """Fit and score the network."""
    chosen = options(__doc__, words, features={"choices": ("dense", "sparse"), "required": True})
    torch.manual_seed(chosen.seed)
    features, edges, labels, split = arrays(chosen.data, "features", "edges", "labels", "split")
    features = features / np.maximum(features.sum(axis=1, keepdims=True), 1)
    x = torch.from_numpy(features.astype(np.float32))
    edge_index = torch.from_numpy(edges.astype(np.int64).T).contiguous()
    y = torch.from_numpy(labels.astype(np.int64))
    train, test = (torch.from_numpy(split == code) for code in (TRAIN, TEST))
    sparse = chosen.features == "sparse"
    if sparse:
        x = x.to_sparse_csr()  # a third faster than COO
    model = GCN(features.shape[1], int(labels.max()) + 1, sparse)
    optimizer = torch.optim.Adam(
        [
            {"params": model.conv1.parameters(), "weight_decay": 5e-4},
            {"params": model.conv2.parameters(), "weight_decay": 0},
        ],
        lr=0.01,
    )

    def fit() -> None:
        model.train()
        for _ in range(chosen.epochs):
            optimizer.zero_grad()
            F.cross_entropy(model(x, edge_index)[train], y[train]).backward()
            optimizer.step()

    seconds, _ = timed(fit)
    model.eval()
    with torch.no_grad():
        right = model(x, edge_index).argmax(dim=1)[test] == y[test]
    report(seconds, float(right.float().mean()), chosen)


if __name__ == "__main__":
    main()
