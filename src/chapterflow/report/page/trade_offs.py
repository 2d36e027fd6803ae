"""Scores of several models with their intervals, and over what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chapterflow.report.page.svg import (
    CARD,
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

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Left, lower, right and upper side, in points.
Box = tuple[float, float, float, float]

#: Where a name may stand beside its point: offset in points, and alignment.
PLACES = (
    (0, 9, "center"), (0, -15, "center"), (8, -3, "left"), (-8, -3, "right"),
    (7, 7, "left"), (-7, 7, "right"), (7, -13, "left"), (-7, -13, "right"),
)  # fmt: skip
#: Points that a letter is wide, about.
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
    """Return the points that no other beats in score without costing more, by cost ascending.

    Of two with the same cost and score both are kept.
    """
    sign = 1 if higher_is_better else -1

    def beaten(point: Point) -> bool:
        return any(
            other.cost <= point.cost
            and sign * other.score >= sign * point.score
            and (other.cost, other.score) != (point.cost, point.score)
            for other in points
        )

    return sorted((p for p in points if not beaten(p)), key=lambda p: (p.cost, p.score))


def intervals(pen: Draughtsman, points: Sequence[Point], score: str, caption: str) -> Drawing:
    """Draw scores with their intervals, one line for each model, in their order."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        drawn = figure(
            WIDTH, 0.75 + 0.26 * len(points), left=label_margin([p.label for p in points])
        )
        axes = drawn.subplots()
        rows = range(len(points))
        axes.hlines(rows, [p.low for p in points], [p.high for p in points], SERIES[0], lw=2)
        axes.plot([p.score for p in points], rows, "o", color=SERIES[0], ms=6)
        axes.set_yticks(rows, [p.label for p in points])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.grid(visible=False, axis="y")
        axes.set(ylim=(len(points) - 0.5, -0.5), xlabel=score)
        axes.locator_params(axis="x", nbins=6)
        said = "; ".join(f"{p.label} {p.score:.4f}, {p.low:.3f} to {p.high:.3f}" for p in points)
        return pen.drawing(drawn, f"{score} with 95 % intervals: {said}.", caption)


def trade_off(
    pen: Draughtsman, points: Sequence[Point], cost: str, score: str, *, higher_is_better: bool
) -> Drawing:
    """Draw scores over a cost, the Pareto front as steps through filled points.

    Args:
        pen: Makes the drawing.
        points: One for each model.
        cost: Name of the cost, with its unit.
        score: Name of the score.
        higher_is_better: Whether more of the score is better.
    """
    import matplotlib as mpl

    front = pareto_front(points, higher_is_better=higher_is_better)
    with mpl.rc_context(STYLE):
        drawn = figure(WIDTH, HEIGHT, left=0.76)
        axes = drawn.subplots()
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
        axes.set(xlabel=f"{cost}, log scale", ylabel=score)
        plain_ticks(axes.xaxis, *axes.get_xlim())
        _label(axes, points)
        named = ", ".join(p.label for p in front)
        said = "; ".join(f"{p.label} {p.score:.4f} at {p.cost:,.4g}" for p in points)
        return pen.drawing(
            drawn,
            f"{score} over {cost}: {said}. On the Pareto front: {named}.",
            f"{score[0].upper()}{score[1:]} over {cost}. Pareto front (filled): {named}.",
        )


def _label(axes: Axes, points: Sequence[Point]) -> None:
    """Write each model's name beside its point, where it covers the least."""
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
    """Return the area that a box covers of others; what lies outside of the frame costs more."""
    covered = sum(
        max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
        * max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
        for other in taken
    )
    outside = sum(max(0.0, frame[side] - box[side]) for side in (0, 1))
    outside += sum(max(0.0, box[side] - frame[side]) for side in (2, 3))
    return covered + 20 * outside
