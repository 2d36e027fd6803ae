"""Plots of models, of datasets, and of scores over costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.language import message, tr, trn
from chapterflow.page.parts import between
from chapterflow.page.svg import (
    CARD,
    DIM,
    GRID,
    HEIGHT,
    INK,
    SERIES,
    STYLE,
    WIDTH,
    Drawing,
    Pen,
    figure,
    label_margin,
    plain_ticks,
)
from chapterflow.training.history import EpochRecord

#: What learning curves show.
CURVES = message({"loss": "loss", "accuracy": "accuracy"})

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def learning_curve(
    pen: Pen, history: Sequence[EpochRecord], name: str, chosen: int, model: str
) -> Drawing:
    """Draw training and validation loss (or accuracy) by epoch, and mark the epoch that was kept.

    Args:
        pen: Makes the drawing.
        history: Records of the epochs.
        name: `loss` or `accuracy`.
        chosen: Epoch whose weights were kept.
        model: Name of the model.
    """
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        plot = figure(WIDTH, HEIGHT, left=0.72)
        axes = plot.subplots()
        epochs = [record.epoch for record in history]
        ranges = []
        for split, colour in (("train", SERIES[0]), ("validation", SERIES[1])):
            values = [getattr(record, f"{split}_{name}") for record in history]
            marker = "o" if len(history) < 12 else None
            axes.plot(
                epochs, values, label=tr(split), color=colour, marker=marker, ms=3.5,
                ls="-" if split == "train" else "--",
            )  # fmt: skip
            last = values[epochs.index(chosen)] if chosen in epochs else values[-1]
            ranges.append(
                tr(
                    "{split} from {first} to {last}",
                    split=tr(split), first=f"{values[0]:.4g}", last=f"{last:.4g}",
                )
            )  # fmt: skip
        kept = tr("kept: epoch {epoch}", epoch=chosen)
        axes.axvline(chosen, color=DIM, ls=":", lw=1.2, label=kept)
        axes.set(xlabel=tr("epoch"), ylabel=tr(CURVES[name]))
        if name == "loss" and min(record.train_loss for record in history) > 0:
            axes.set(yscale="log", ylabel=tr("{quantity}, log scale", quantity=tr("loss")))
            plain_ticks(axes.yaxis, *axes.get_ylim())
        axes.locator_params(axis="x", integer=True)
        axes.legend(fontsize=9)
        alt = tr(
            "{quantity} of {model} over {epochs} epochs: {ranges} at epoch {epoch}.",
            quantity=tr(CURVES[name]), model=model, epochs=len(history),
            ranges=", ".join(ranges), epoch=chosen,
        )  # fmt: skip
        caption = tr("Learning curve: {quantity}", quantity=tr(CURVES[name]))
        return pen.drawing(plot, alt, caption)


def calibration(
    pen: Pen, labels: NDArray[Any], probabilities: NDArray[Any], bins: int, model: str
) -> Drawing:
    """Draw accuracy over confidence in bins, and how many predictions are in each bin.

    A reliability diagram (Guo et al. 2017, section 2).

    Args:
        pen: Makes the drawing.
        labels: `(n,)` true classes.
        probabilities: `(n, classes)`.
        bins: Bins over (0, 1].
        model: Name of the model.
    """
    import matplotlib as mpl
    from matplotlib.ticker import NullLocator

    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    filled = counts > 0
    share = np.bincount(place, weights=correct, minlength=bins)[filled] / counts[filled]
    mean = np.bincount(place, weights=confidence, minlength=bins)[filled] / counts[filled]
    with mpl.rc_context(STYLE):
        plot = figure(WIDTH, HEIGHT)
        upper, lower = plot.subplots(2, 1, height_ratios=(3, 1), sharex=True)
        upper.plot([0, 1], [0, 1], color=DIM, lw=1, ls=":", label=tr("calibrated"))
        upper.plot(mean, share, "o-", color=SERIES[0], ms=4.5, label=model)
        upper.set(ylabel=tr("share correct"), xlim=(0, 1.02), ylim=(-0.02, 1.05))
        upper.legend(fontsize=9, loc="upper left")
        lower.bar((np.arange(bins) + 0.5) / bins, counts, 0.85 / bins, color=SERIES[0])
        lower.set(xlabel=tr("confidence"), ylabel=tr("examples"), yscale="log")
        lower.set_ylim(0.7, 2 * counts.max())
        lower.set_yticks([1, counts.max()], ["1", f"{counts.max():,}"])
        lower.yaxis.set_minor_locator(NullLocator())
        lower.yaxis.label.set_size(8.5)
        plot.align_ylabels()
        description = "; ".join(
            trn(
                "{count} example near {confidence}: {share} correct",
                "{count} examples near {confidence}: {share} correct",
                count=n, confidence=f"{m:.2f}", share=f"{s:.2f}",
            )
            for n, m, s in zip(counts[filled], mean, share, strict=True)
        )  # fmt: skip
        alt = tr("Calibration of {model}. {bins}.", model=model, bins=description)
        return pen.drawing(plot, alt, tr("Calibration"))


def curve(
    pen: Pen, noisy: NDArray[Any], clean: NDArray[Any], answer: NDArray[Any], caption: str
) -> Drawing:
    """Draw a noisy curve, the clean curve and the model's answer; each `(length,)`."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        plot = figure(WIDTH, HEIGHT * 0.85, left=0.45, top=0.32)
        axes = plot.subplots()
        axes.plot(noisy, ".", color=GRID, ms=4, label=tr("input"))
        axes.plot(clean, color=SERIES[0], lw=1.2, label=tr("target"))
        axes.plot(answer, color=SERIES[1], lw=1.4, ls="--", label=tr("model"))
        axes.set_xlabel(tr("sample"))
        axes.legend(fontsize=8.5, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
        return pen.drawing(plot, caption, caption)


def balance(
    pen: Pen, counts: Sequence[Sequence[int]], splits: Sequence[str], classes: Sequence[str]
) -> Drawing:
    """Draw the examples of each class in each split, `counts[split][class]`."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        plot = figure(
            WIDTH * 1.1, 0.9 + 0.24 * len(classes), top=0.35,
            left=label_margin([name[:24] for name in classes]),
        )  # fmt: skip
        axes = plot.subplots()
        left = np.zeros(len(classes))
        for split, values, colour in zip(splits, counts, SERIES, strict=False):
            axes.barh(
                range(len(classes)),
                values,
                left=left,
                color=colour,
                label=tr(split),
                height=0.7,
            )
            left += values
        axes.set_yticks(range(len(classes)), [name[:24] for name in classes])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.grid(visible=False, axis="y")
        axes.set(ylim=(len(classes) - 0.4, -0.6), xlabel=tr("examples"))
        axes.legend(fontsize=9, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
        named = list(map(tr, splits))
        description = "; ".join(
            f"{name} " + ", ".join(f"{row[place]} {split}" for split, row in zip(named, counts))  # noqa: B905
            for place, name in enumerate(classes)
        )
        alt = tr("Examples by class: {counts}.", counts=description)
        return pen.drawing(plot, alt, tr("Class balance"))


#: Left, lower, right and upper side, in points.
Box = tuple[float, float, float, float]
#: Possible places of a name next to its point: offset in points, and alignment.
PLACES = (
    (0, 9, "center"), (0, -15, "center"), (8, -3, "left"), (-8, -3, "right"),
    (7, 7, "left"), (-7, 7, "right"), (7, -13, "left"), (-7, -13, "right"),
)  # fmt: skip
#: Approximate width of a letter, in points.
LETTER = 5.6


@dataclass(frozen=True)
class Point:
    """A model with its score and one of its costs; `low` and `high` bound the score."""

    label: str
    cost: float
    score: float
    low: float
    high: float


def pareto_front(points: Sequence[Point], *, higher_is_better: bool = True) -> list[Point]:
    """Return the points that no other point beats at the same or a lower cost, by cost ascending.

    Points with equal cost and score are all kept.
    """
    sign = 1 if higher_is_better else -1

    def is_beaten(point: Point) -> bool:
        return any(
            other.cost <= point.cost
            and sign * other.score >= sign * point.score
            and (other.cost, other.score) != (point.cost, point.score)
            for other in points
        )

    return sorted((p for p in points if not is_beaten(p)), key=lambda p: (p.cost, p.score))


def intervals(pen: Pen, points: Sequence[Point], score: str, caption: str) -> Drawing:
    """Draw scores with their intervals, one line for each model."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        plot = figure(
            WIDTH, 0.75 + 0.26 * len(points), left=label_margin([p.label for p in points])
        )
        axes = plot.subplots()
        rows = range(len(points))
        axes.hlines(rows, [p.low for p in points], [p.high for p in points], SERIES[0], lw=2)
        axes.plot([p.score for p in points], rows, "o", color=SERIES[0], ms=6)
        axes.set_yticks(rows, [p.label for p in points])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.grid(visible=False, axis="y")
        axes.set(ylim=(len(points) - 0.5, -0.5), xlabel=score)
        axes.locator_params(axis="x", nbins=6)
        description = "; ".join(
            f"{p.label} {p.score:.4f}, {between(f'{p.low:.3f}', f'{p.high:.3f}')}" for p in points
        )
        alt = tr("{score} with 95 % intervals: {models}.", score=score, models=description)
        return pen.drawing(plot, alt, caption)


def trade_off(
    pen: Pen, points: Sequence[Point], cost: str, score: str, *, higher_is_better: bool
) -> Drawing:
    """Draw scores over a cost; steps through filled points are the Pareto front.

    Args:
        pen: Makes the drawing.
        points: One point for each model.
        cost: Name of the cost, with its unit.
        score: Name of the score.
        higher_is_better: Whether a larger score is better.
    """
    import matplotlib as mpl

    front = pareto_front(points, higher_is_better=higher_is_better)
    with mpl.rc_context(STYLE):
        plot = figure(WIDTH, HEIGHT, left=0.76)
        axes = plot.subplots()
        axes.set_xscale("log")
        axes.plot(
            [p.cost for p in front], [p.score for p in front], drawstyle="steps-post",
            color=SERIES[1], lw=1.2, ls="--",
        )  # fmt: skip
        for point in points:
            best = point in front
            axes.plot(
                point.cost, point.score, "o", ms=7, mec=SERIES[1] if best else SERIES[0],
                mfc=SERIES[1] if best else CARD, mew=1.6, zorder=3,
            )  # fmt: skip
        axes.margins(0.18, 0.18)
        axes.set(xlabel=tr("{quantity}, log scale", quantity=cost), ylabel=score)
        plain_ticks(axes.xaxis, *axes.get_xlim())
        _label(axes, points)
        named = ", ".join(p.label for p in front)
        description = "; ".join(
            tr("{model} {score} at {cost}", model=p.label, score=f"{p.score:.4f}",
               cost=f"{p.cost:,.4g}")
            for p in points
        )  # fmt: skip
        facts = {"cost": cost, "front": named, "models": description}
        return pen.drawing(
            plot,
            tr(
                "{score} over {cost}: {models}. On the Pareto front: {front}.", score=score, **facts
            ),
            tr(
                "{score} over {cost}. Pareto front (filled): {front}.",
                score=f"{score[0].upper()}{score[1:]}",
                **facts,
            ),
        )


def _label(axes: Axes, points: Sequence[Point]) -> None:
    """Write each model's name next to its point, where it covers the least."""
    scale = 72 / axes.figure.dpi
    dots = axes.transData.transform([(p.cost, p.score) for p in points]) * scale
    left, lower, right, upper = (float(side) * scale for side in axes.bbox.extents)
    frame: Box = (left, lower, right, upper)
    taken: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y in dots]
    for point, (x, y) in zip(points, dots, strict=True):
        boxes = {place: _box(place, x, y, LETTER * len(point.label)) for place in PLACES}
        best = min(PLACES, key=lambda place: _cost(boxes[place], frame, taken))
        taken.append(boxes[best])
        axes.annotate(
            point.label, (point.cost, point.score), xytext=best[:2], textcoords="offset points",
            ha=best[2], fontsize=9,
        )  # fmt: skip


def _box(place: tuple[float, float, str], x: float, y: float, wide: float) -> Box:
    left = x + place[0] - wide * {"left": 0, "center": 0.5, "right": 1}[place[2]]
    return (left, y + place[1] - 1, left + wide, y + place[1] + 9)


def _cost(box: Box, frame: Box, taken: Sequence[Box]) -> float:
    """Return the area of other boxes that a box covers; area outside the frame costs more."""
    covered = sum(
        max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
        * max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
        for other in taken
    )
    outside = sum(max(0.0, frame[side] - box[side]) for side in (0, 1))
    outside += sum(max(0.0, box[side] - frame[side]) for side in (2, 3))
    return covered + 20 * outside
