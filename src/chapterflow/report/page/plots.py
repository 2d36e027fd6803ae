"""The plots of one model and of one dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.report.page.svg import (
    DIM,
    GRID,
    HEIGHT,
    INK,
    SERIES,
    STYLE,
    WIDTH,
    Draughtsman,
    Drawing,
    figure,
    label_margin,
    plain_ticks,
)
from chapterflow.training.history import EpochRecord


def learning_curve(
    pen: Draughtsman, history: Sequence[EpochRecord], name: str, chosen: int, model: str
) -> Drawing:
    """Draw loss or accuracy of train and validation over the epochs, the kept one marked.

    Args:
        pen: Makes the drawing.
        history: Records of the epochs.
        name: `loss` or `accuracy`.
        chosen: Epoch whose weights were kept.
        model: Whose it is.
    """
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        drawn = figure(WIDTH, HEIGHT, left=0.72)
        axes = drawn.subplots()
        epochs = [record.epoch for record in history]
        said = []
        for split, colour in (("train", SERIES[0]), ("validation", SERIES[1])):
            values = [getattr(record, f"{split}_{name}") for record in history]
            marker = "o" if len(history) < 12 else None
            axes.plot(
                epochs, values, label=split, color=colour, marker=marker, ms=3.5,
                ls="-" if split == "train" else "--",
            )  # fmt: skip
            kept = values[epochs.index(chosen)] if chosen in epochs else values[-1]
            said.append(f"{split} from {values[0]:.4g} to {kept:.4g}")
        axes.axvline(chosen, color=DIM, ls=":", lw=1.2, label=f"kept: epoch {chosen}")
        axes.set(xlabel="epoch", ylabel=name)
        if name == "loss" and min(record.train_loss for record in history) > 0:
            axes.set(yscale="log", ylabel="loss, log scale")
            plain_ticks(axes.yaxis, *axes.get_ylim())
        axes.locator_params(axis="x", integer=True)
        axes.legend(fontsize=9)
        alt = f"{name} of {model} over {len(history)} epochs: {', '.join(said)} at epoch {chosen}."
        return pen.drawing(drawn, alt, f"Learning curve: {name}")


def calibration(
    pen: Draughtsman, labels: NDArray[Any], probabilities: NDArray[Any], bins: int, model: str
) -> Drawing:
    """Draw accuracy over confidence in bins, and how many predictions are in each bin.

    A reliability diagram (Guo et al. 2017, section 2).

    Args:
        pen: Makes the drawing.
        labels: `(n,)` true classes.
        probabilities: `(n, classes)`.
        bins: Bins over (0, 1].
        model: Whose it is.
    """
    import matplotlib as mpl
    from matplotlib.ticker import NullLocator

    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    there = counts > 0
    share = np.bincount(place, weights=right, minlength=bins)[there] / counts[there]
    mean = np.bincount(place, weights=confidence, minlength=bins)[there] / counts[there]
    with mpl.rc_context(STYLE):
        drawn = figure(WIDTH, HEIGHT)
        upper, lower = drawn.subplots(2, 1, height_ratios=(3, 1), sharex=True)
        upper.plot([0, 1], [0, 1], color=DIM, lw=1, ls=":", label="calibrated")
        upper.plot(mean, share, "o-", color=SERIES[0], ms=4.5, label=model)
        upper.set(ylabel="share right", xlim=(0, 1.02), ylim=(-0.02, 1.05))
        upper.legend(fontsize=9, loc="upper left")
        lower.bar((np.arange(bins) + 0.5) / bins, counts, 0.85 / bins, color=SERIES[0])
        lower.set(xlabel="confidence", ylabel="examples", yscale="log")
        lower.set_ylim(0.7, 2 * counts.max())
        lower.set_yticks([1, counts.max()], ["1", f"{counts.max():,}"])
        lower.yaxis.set_minor_locator(NullLocator())
        lower.yaxis.label.set_size(8.5)
        drawn.align_ylabels()
        said = "; ".join(
            f"{n} examples near {m:.2f}: {s:.2f} right"
            for n, m, s in zip(counts[there], mean, share, strict=True)
        )
        return pen.drawing(drawn, f"Calibration of {model}. {said}.", "Calibration")


def curve(
    pen: Draughtsman, noisy: NDArray[Any], clean: NDArray[Any], answer: NDArray[Any], caption: str
) -> Drawing:
    """Draw one curve as it came, as it should be, and as a model smooths it; each `(length,)`."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        drawn = figure(WIDTH, HEIGHT * 0.85, left=0.45, top=0.32)
        axes = drawn.subplots()
        axes.plot(noisy, ".", color=GRID, ms=4, label="input")
        axes.plot(clean, color=SERIES[0], lw=1.2, label="target")
        axes.plot(answer, color=SERIES[1], lw=1.4, ls="--", label="model")
        axes.set_xlabel("sample")
        axes.legend(fontsize=8.5, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
        return pen.drawing(drawn, caption, caption)


def balance(
    pen: Draughtsman, counts: Sequence[Sequence[int]], splits: Sequence[str], classes: Sequence[str]
) -> Drawing:
    """Draw how many examples of each class each split has, `counts[split][class]`."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        drawn = figure(
            WIDTH * 1.1, 0.9 + 0.24 * len(classes), top=0.35,
            left=label_margin([name[:24] for name in classes]),
        )  # fmt: skip
        axes = drawn.subplots()
        left = np.zeros(len(classes))
        for split, values, colour in zip(splits, counts, SERIES, strict=False):
            axes.barh(range(len(classes)), values, left=left, color=colour, label=split, height=0.7)
            left += values
        axes.set_yticks(range(len(classes)), [name[:24] for name in classes])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.grid(visible=False, axis="y")
        axes.set(ylim=(len(classes) - 0.4, -0.6), xlabel="examples")
        axes.legend(fontsize=9, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
        said = "; ".join(
            f"{name} " + ", ".join(f"{row[place]} {split}" for split, row in zip(splits, counts))  # noqa: B905
            for place, name in enumerate(classes)
        )
        return pen.drawing(drawn, f"Examples by class: {said}.", "Class balance")
