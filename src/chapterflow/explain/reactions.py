"""What a network reacts to: the test examples it is surest of, least sure of, and surely wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.explain.canvas import GREY, RED, Canvas, draw_input
from chapterflow.explain.feature_maps import wrapped
from chapterflow.kinds.dataset import Dataset

#: Examples of each sort, and classes drawn.
EACH, CLASSES = 4, 10
TILE, GAP, NAMES, MARGIN, HEADING, LINE, BETWEEN = 68, 8, 96, 20, 84, 18, 26
SORTS = {"surest": "surest, and right", "doubtful": "least sure", "wrong": "wrong, and sure"}
Reactions = dict[str, dict[str, list[int]]]


def reactions(labels: NDArray[Any], probabilities: NDArray[Any], classes: int) -> Reactions:
    """Return for each class the examples that tell most of what the network takes for it.

    Args:
        labels: True classes `(n,)`.
        probabilities: `(n, classes)`.
        classes: How many.

    Returns:
        By number of the class, positions in the arrays: `surest` (of this class, right, the highest
        confidence first), `doubtful` (of this class, the lowest probability of it first) and
        `wrong` (of this class, taken for another, the most confident first).
    """
    said, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    found: Reactions = {}
    for number in range(classes):
        own = np.flatnonzero(labels == number)
        right, wrong = own[said[own] == number], own[said[own] != number]
        found[str(number)] = {
            "surest": _first(right, -confidence[right]),
            "doubtful": _first(own, probabilities[own, number]),
            "wrong": _first(wrong, -confidence[wrong]),
        }
    return found


def _first(positions: NDArray[np.intp], keys: NDArray[Any]) -> list[int]:
    return [int(one) for one in positions[np.argsort(keys, kind="stable")[:EACH]]]


def draw_reactions(
    dataset: Dataset,
    found: Reactions,
    probabilities: NDArray[Any],
    title: str,
    path: Path,
) -> None:
    """Draw a row for each class (ten at most): the three sorts of test examples side by side.

    Below each example the class that the model takes it for, and its probability; red where that
    is wrong.

    Args:
        dataset: Its test split is what the positions count.
        found: Of `reactions`.
        probabilities: Of the test split, `(n, classes)`.
        title: Heading.
        path: Image to write.
    """
    test, names = dataset.indices("test"), dataset.card.classes
    rows = list(found.items())[:CLASSES]
    block = EACH * (TILE + GAP) + BETWEEN
    canvas = Canvas(
        2 * MARGIN + NAMES + len(SORTS) * block - BETWEEN,
        MARGIN + HEADING + len(rows) * (TILE + LINE + GAP) + 6,
    )
    canvas.text(MARGIN, MARGIN, title, size=12)
    canvas.text(
        MARGIN,
        MARGIN + 26,
        f"{len(test)} test examples, one row a class. Below each: the model's answer and its "
        "confidence, red where it is wrong.",
        color=GREY,
    )
    for place, text in enumerate(SORTS.values()):
        canvas.text(MARGIN + NAMES + place * block, MARGIN + HEADING - 22, text, weight="bold")
    needed = np.array(
        sorted({one for _, sorts in rows for several in sorts.values() for one in several}), int
    )
    inputs = dict(zip(needed.tolist(), dataset.inputs(test[needed]), strict=True))
    for line, (number, sorts) in enumerate(rows):
        y = MARGIN + HEADING + line * (TILE + LINE + GAP)
        name = wrapped(names[int(number)], 12)
        canvas.text(MARGIN, y + TILE / 2, name, size=10, va="center", weight="bold")
        for place, sort in enumerate(SORTS):
            x = MARGIN + NAMES + place * block
            if not sorts[sort]:
                canvas.text(x, y + TILE / 2, "none", va="center", color=GREY)
            for column, one in enumerate(sorts[sort]):
                box = (x + column * (TILE + GAP), y, TILE, TILE)
                draw_input(canvas, box, inputs[one], dataset.card.value_max)
                said = int(probabilities[one].argmax())
                canvas.text(
                    box[0] + TILE / 2,
                    y + TILE + 3,
                    f"{_short(names, said)} {probabilities[one, said]:.2f}",
                    size=7.5,
                    ha="center",
                    color=GREY if said == int(number) else RED,
                )
    canvas.save(path)


def _short(names: Sequence[str], number: int) -> str:
    name = names[number]
    return name if len(name) <= 7 else f"{name[:6]}…"
