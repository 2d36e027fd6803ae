"""GCN and GIN in PyTorch Geometric, which classify graphs; on one split or cross-validated.

After its tutorial on graph classification and `examples/mutag_gin.py`: `DataLoader`, `GCNConv` or
`GINConv`, sum over the nodes. Three layers of 32 units whose outputs are concatenated, Adam at
0.01 and batches of 32, as in the model it is compared with.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (as its documentation names it)
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GCNConv, GINConv, global_add_pool

from benchmarks.peers.common import TEST, TRAIN, VALIDATION, arrays, options, report, timed

WIDTH, BATCH = 32, 32


class Network(nn.Module):
    """Three convolutions, the sum of all their outputs over the nodes, two dense layers."""

    def __init__(self, convolution: str, features: int, classes: int) -> None:
        super().__init__()
        widths = [features, WIDTH, WIDTH]
        if convolution == "gcn":
            layers = [GCNConv(width, WIDTH) for width in widths]
        else:
            layers = [
                GINConv(
                    nn.Sequential(nn.Linear(width, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)),
                    train_eps=True,
                )
                for width in widths
            ]
        self.convolutions = nn.ModuleList(layers)
        self.dense = nn.Linear(3 * WIDTH, WIDTH)
        self.logits = nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor, edges: Tensor, batch: Tensor) -> Tensor:
        """Return logits `(b, classes)`."""
        states = []
        for convolution in self.convolutions:
            x = convolution(x, edges).relu()
            states.append(x)
        x = global_add_pool(torch.cat(states, dim=1), batch)
        return self.logits(self.dense(x).relu())


def graphs_of(folder: object) -> list[Data]:
    """Return the graphs of a dataset."""
    names = ("features", "edges", "labels", "node_offsets", "edge_offsets")
    features, edges, labels, nodes, begins = arrays(folder, *names)
    x, edge_index = torch.from_numpy(features), torch.from_numpy(edges.astype(np.int64).T)
    return [
        Data(
            x=x[nodes[graph] : nodes[graph + 1]],
            edge_index=edge_index[:, begins[graph] : begins[graph + 1]].contiguous(),
            y=int(label),
        )
        for graph, label in enumerate(labels)
    ]


def score(model: nn.Module, loader: DataLoader) -> tuple[float, float]:
    """Return accuracy and mean loss."""
    model.eval()
    right = loss = 0.0
    with torch.no_grad():
        for batch in loader:
            logits = model(batch.x, batch.edge_index, batch.batch)
            right += int((logits.argmax(dim=1) == batch.y).sum())
            loss += float(F.cross_entropy(logits, batch.y, reduction="sum"))
    return right / len(loader.dataset), loss / len(loader.dataset)


def train(
    model: nn.Module, graphs: Sequence[Data], epochs: int, scored: Sequence[Sequence[Data]] = ()
) -> list[list[tuple[float, float]]]:
    """Fit a network; return accuracy and loss on each of some sets, after each epoch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loader = DataLoader(graphs, batch_size=BATCH, shuffle=True)
    others = [DataLoader(part, batch_size=BATCH) for part in scored]
    history = []
    for _ in range(epochs):
        model.train()
        for batch in loader:
            optimizer.zero_grad()
            logits = model(batch.x, batch.edge_index, batch.batch)
            F.cross_entropy(logits, batch.y).backward()
            optimizer.step()
        history.append([score(model, other) for other in others])
    return history


def main(words: Sequence[str] | None = None) -> None:
    """Fit and score a network."""
    chosen = options(
        __doc__,
        words,
        convolution={"choices": ("gcn", "gin"), "required": True},
        parts={"help": ".npy file (folds, n): the split code of each graph in each fold"},
    )
    torch.manual_seed(chosen.seed)
    graphs = graphs_of(chosen.data)
    size = graphs[0].x.shape[1], max(graph.y for graph in graphs) + 1

    def chosen_by(codes: np.ndarray, *wanted: int) -> list[Data]:
        return [graphs[position] for position in np.flatnonzero(np.isin(codes, wanted))]

    if chosen.parts is None:
        (split,) = arrays(chosen.data, "split")
        model = Network(chosen.convolution, *size)
        seconds, _ = timed(lambda: train(model, chosen_by(split, TRAIN), chosen.epochs))
        accuracy, _ = score(model, DataLoader(chosen_by(split, TEST), batch_size=BATCH))
        report(seconds, accuracy, chosen)
        return

    parts = np.load(chosen.parts, allow_pickle=False)
    inner, of_epochs = [], []

    def inner_protocol() -> None:
        """The validation split of a fold chooses its epoch."""
        for codes in parts:
            history = train(
                Network(chosen.convolution, *size),
                chosen_by(codes, TRAIN),
                chosen.epochs,
                [chosen_by(codes, VALIDATION), chosen_by(codes, TEST)],
            )
            best = min(history, key=lambda epoch: (-epoch[0][0], epoch[0][1]))
            inner.append(best[1][0])

    def gin_protocol() -> None:
        """No validation: the epoch that is best on average over the test folds."""
        for codes in parts:
            history = train(
                Network(chosen.convolution, *size),
                chosen_by(codes, TRAIN, VALIDATION),
                chosen.epochs,
                [chosen_by(codes, TEST)],
            )
            of_epochs.append([epoch[0][0] for epoch in history])

    inner_seconds, _ = timed(inner_protocol)
    gin_seconds, _ = timed(gin_protocol)
    report(
        inner_seconds + gin_seconds,
        float(np.mean(inner)),
        chosen,
        accuracy_gin=float(np.mean(of_epochs, axis=0).max()),
        seconds_inner=inner_seconds,
        seconds_gin=gin_seconds,
    )


if __name__ == "__main__":
    main()
