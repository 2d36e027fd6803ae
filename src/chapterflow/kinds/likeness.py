"""What the inputs of a training look like, and whether other inputs are like them.

A model answers any input with some class and, often, high confidence. Range, border and sharpness
reveal inputs of which it knows nothing: black ink on white paper if it learnt white on black, a
grey background, a blurred or already divided picture.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from chapterflow.kinds.dataset import Dataset
from chapterflow.types import Strict

#: Most examples of a training that are read, evenly spaced, and how many at once: decoding
#: thousands of photos takes long.
EXAMPLES, AT_ONCE = 1000, 50
#: Bytes of inputs whose figures are computed at once.
BLOCK_BYTES = 2**22
#: Share of the training examples that may lie beyond each bound, before the margin.
OUTSIDE = 0.001
#: Margin of a bound: this share of the distance between both bounds, more for few examples, which
#: do not show all that a class may look like. At least a share of the range of values (of 1 for
#: the sharpness).
MARGIN, MARGIN_OF_ONE, LEAST_MARGIN = 0.25, 5.0, 0.1
BORDER, SHARPNESS = "border", "sharpness"
#: Inversion explains a border out of bounds if it leaves less than this share of the differences.
EXPLAINED = 0.25
#: What a note then adds.
INVERTED = "Inverted, it is more like them (`predict` and `explain` have --invert)"


def figures(values: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """Return figures of inputs, `(n,)` each, by name.

    They are the smallest and the largest value, the mean, the mean along the border, and the
    sharpness: the mean absolute difference of neighbours, divided by the standard deviation.

    Args:
        values: `(n, *sides, channels)` with one to three sides.
    """
    rows = max(1, BLOCK_BYTES // max(1, values[:1].nbytes))
    blocks = [_figures(values[start : start + rows]) for start in range(0, len(values), rows)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _figures(values: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    values = np.asarray(values, np.float64)
    rest = tuple(range(1, values.ndim))
    sides = [side for side in rest[:-1] if values.shape[side] > 1]
    inside = np.zeros(values.shape[1:-1], bool)
    inside[(slice(1, -1),) * inside.ndim] = True
    spread = values.std(axis=rest)
    steps = [np.abs(np.diff(values, axis=side)).mean(axis=rest) for side in sides]
    change = np.mean(steps, axis=0) if steps else np.zeros(len(values))
    return {
        "smallest value": values.min(axis=rest),
        "largest value": values.max(axis=rest),
        "mean": values.mean(axis=rest),
        BORDER: values[:, ~inside].mean(axis=(1, 2)),
        SHARPNESS: np.divide(change, spread, out=np.zeros_like(spread), where=spread > 0),
    }


class Likeness(Strict):
    """Bounds of the figures of a training's inputs.

    Attributes:
        bounds: Lowest and highest value of each figure, margin included, by name.
        inverse: Largest raw value, if values lie between 0 and it; null if they have no bounds.
    """

    bounds: dict[str, list[float]]
    inverse: float | None

    @classmethod
    def of(cls, dataset: Dataset) -> Self | None:
        """Return the bounds of a dataset's train split; None for graphs, which have no sides."""
        train = dataset.indices("train")
        if isinstance(dataset.input_shapes(), dict) or not len(train):
            return None
        places = np.linspace(0, len(train) - 1, min(len(train), EXAMPLES), dtype=int)
        chosen = train[np.unique(places)]
        parts = [
            figures(dataset.inputs(chosen[start : start + AT_ONCE]))
            for start in range(0, len(chosen), AT_ONCE)
        ]
        bounds = {}
        for name in parts[0]:
            seen = np.concatenate([part[name] for part in parts])
            low, high = np.quantile(seen, [OUTSIDE, 1 - OUTSIDE])
            unit = 1.0 if name == SHARPNESS else dataset.card.value_max
            share = MARGIN + MARGIN_OF_ONE / np.sqrt(len(seen))
            margin = max(share * (high - low), LEAST_MARGIN * unit)
            bounds[name] = [float(low - margin), float(high + margin)]
        return cls(bounds=bounds, inverse=dataset.card.value_max if dataset.kind.bounded else None)

    @classmethod
    def read(cls, document: Any) -> Self | None:
        """Return the bounds in the description of a logged model; None if it has none."""
        return None if document is None else cls.model_validate(document)

    def notes(self, values: NDArray[Any]) -> list[str]:
        """Return what makes each input unlike those of the training; empty if nothing does.

        Args:
            values: Inputs `(n, ...)`.
        """
        if not len(values):
            return []
        excess = inverted = self._excess(values)
        if not any(excess):
            return [""] * len(values)
        if self.inverse is not None and any(BORDER in by_name for by_name in excess):
            inverted = self._excess(np.float32(self.inverse) - values)
        notes = []
        seen = figures(values)
        for place, (by_name, other) in enumerate(zip(excess, inverted, strict=True)):
            texts = []
            for name in by_name:
                value, (low, high) = seen[name][place], self.bounds[name]
                bound = f"at most {high:.3g}" if value > high else f"at least {low:.3g}"
                texts.append(f"{name} {value:.3g}, there {bound}")
            note = f"unlike the training data: {'; '.join(texts)}" if texts else ""
            if BORDER in by_name and sum(other.values()) < EXPLAINED * sum(by_name.values()):
                note += f". {INVERTED}"
            notes.append(note)
        return notes

    def _excess(self, values: NDArray[Any]) -> list[dict[str, float]]:
        """Return, for each input, how far its figures are out of bounds, by name.

        The distance is a share of that between both bounds. Figures within are left out.
        """
        distances: list[dict[str, float]] = [{} for _ in range(len(values))]
        for name, seen in figures(values).items():
            low, high = self.bounds[name]
            beyond = np.maximum(low - seen, seen - high) / (high - low)
            for place in np.flatnonzero(beyond > 0):
                distances[place][name] = float(beyond[place])
        return distances
