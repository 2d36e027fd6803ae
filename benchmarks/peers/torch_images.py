"""Dense network, the book's CNN and LeNet-5 in plain PyTorch, on images in memory.

After the tutorials of PyTorch ("Learn the basics", "What is torch.nn really?"): batches of 64, cut
from tensors, Adam at 0.001. No validation.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from benchmarks.peers.common import TEST, TRAIN, arrays, options, report, timed

BATCH = 64


def network(model: str, side: int) -> nn.Module:
    """Return a model for grey images of `side` x `side`: `(b, 1, side, side)` -> `(b, 10)`."""
    if model == "dnn":
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(side * side, 128),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(128, 10),
        )
    if model == "cnn":
        return nn.Sequential(
            nn.Conv2d(1, 32, 3, padding="same"),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding="same"),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * (side // 4) ** 2, 128),
            nn.ReLU(),
            nn.Linear(128, 10),
        )
    margin = (32 - side) // 2
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=margin),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(16, 120, 5),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


def main(words: Sequence[str] | None = None) -> None:
    """Fit and score a model."""
    chosen = options(__doc__, words, model={"choices": ("dnn", "cnn", "lenet5"), "required": True})
    torch.manual_seed(chosen.seed)
    images, labels, split = arrays(chosen.data, "images", "labels", "split")
    pixels = torch.from_numpy(images.astype(np.float32) / images.max()).permute(0, 3, 1, 2)
    pixels = pixels.contiguous()
    classes = torch.from_numpy(labels.astype(np.int64))
    x, y = pixels[split == TRAIN], classes[split == TRAIN]
    model = network(chosen.model, images.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    loss = nn.CrossEntropyLoss()

    def fit() -> None:
        model.train()
        for _ in range(chosen.epochs):
            for batch in torch.randperm(len(x)).split(BATCH):
                optimizer.zero_grad()
                loss(model(x[batch]), y[batch]).backward()
                optimizer.step()

    seconds, _ = timed(fit)
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(part) for part in pixels[split == TEST].split(1000)])
    right = logits.argmax(dim=1) == classes[split == TEST]
    report(seconds, float(right.float().mean()), chosen)


if __name__ == "__main__":
    main()
