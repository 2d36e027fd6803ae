"""Image files of a training and its evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.evaluation.evaluate import Evaluation
from chapterflow.fonts import families
from chapterflow.kinds.dataset import Dataset
from chapterflow.training.history import EpochRecord, Training

#: File names of the figures.
LEARNING_CURVE = "learning_curve.png"
CONFUSION_MATRIX, CURVES = "confusion_matrix.png", "curves.png"
TRAIN, VALIDATION = "#4269d0", "#d9622b"


def learning_curve(
    history: Sequence[EpochRecord], title: str, path: Path, *, chosen_epoch: int
) -> None:
    """Draw training and validation loss and accuracy by epoch, and mark the chosen epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(title)
    epochs = [record.epoch for record in history]
    names = ["loss", "accuracy"] if history[0].train_accuracy is not None else ["loss"]
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        marker = "o" if len(history) < 12 else None
        for split, colour in (("train", TRAIN), ("validation", VALIDATION)):
            values = [getattr(record, f"{split}_{name}") for record in history]
            axes.plot(epochs, values, label=split, color=colour, marker=marker, markersize=4)
        axes.axvline(chosen_epoch, color="grey", linestyle=":", label="weights kept")
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def confusion_matrix(
    confusion: NDArray[np.int64], classes: Sequence[str], title: str, path: Path
) -> None:
    """Draw a confusion matrix: cells hold counts, colours the fraction of the true class.

    Args:
        confusion: `(classes, classes)` counts; rows are true classes.
        classes: Names of the classes.
        title: Title of the figure.
        path: Image file to write.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.family": families([*classes, title])}):
        side = max(4.5, 0.52 * len(classes) + 1.4)
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.subplots()
        shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.argwhere(confusion > 0):
            colour = "white" if shares[row, column] > 0.5 else "black"
            count = confusion[row, column]
            axes.text(column, row, count, ha="center", va="center", color=colour, fontsize=9)
        ticks = range(len(classes))
        long = max(map(len, classes), default=0) > 3
        axes.set_xticks(ticks, classes, rotation=90 if long else 0)
        axes.set_yticks(ticks, classes)
        axes.set(xlabel="predicted", ylabel="true", title=title)
        figure.savefig(path, dpi=120)


def smoothed_curves(
    inputs: NDArray[Any], targets: NDArray[Any], answers: NDArray[Any], title: str, path: Path
) -> None:
    """Draw the inputs, the targets and the predictions of a model that smooths curves.

    Args:
        inputs: `(n, length, 1)` noisy curves.
        targets: `(n, length, 1)` clean curves.
        answers: `(n, length, 1)` predictions of the model.
        title: Title of the figure.
        path: Image file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.8 * len(inputs) + 0.6), layout="constrained")
    figure.suptitle(title)
    for axes, noisy, clean, smooth in zip(
        figure.subplots(len(inputs), 1, squeeze=False)[:, 0], inputs, targets, answers, strict=True
    ):
        axes.plot(noisy[:, 0], ".", color="lightgrey", label="input")
        axes.plot(clean[:, 0], color=TRAIN, linewidth=1, label="target")
        axes.plot(smooth[:, 0], color=VALIDATION, linewidth=1.2, label="model")
        axes.grid(alpha=0.3)
    axes.set_xlabel("sample")
    figure.axes[0].legend(frameon=False, ncols=3)
    figure.savefig(path, dpi=120)


def draw(
    training: Training, evaluation: Evaluation, dataset: Dataset, title: str, folder: Path
) -> list[Path]:
    """Draw the learning curve and the test results of a run, and return the files.

    Args:
        training: Record of the training.
        evaluation: Scores on the test split.
        dataset: The model's dataset.
        title: Prefix of each figure's title.
        folder: Folder for the files.
    """
    curve = folder / LEARNING_CURVE
    learning_curve(
        training.history, f"{title}: learning curve", curve, chosen_epoch=training.chosen_epoch
    )
    test = dataset.indices("test")
    if dataset.card.task.classes:
        scores = folder / CONFUSION_MATRIX
        heading = f"{title}: {len(test)} test examples"
        confusion_matrix(np.array(evaluation.confusion), dataset.card.classes, heading, scores)
    else:
        scores, few = folder / CURVES, test[:4]
        smoothed_curves(
            dataset.inputs(few),
            dataset.targets(few),
            evaluation.predictions["prediction"][:4],
            f"{title}: the first test curves",
            scores,
        )
    return [curve, scores]
