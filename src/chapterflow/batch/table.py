"""The table of predictions: its columns, and the rows of a chunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.batch.drift import answer_figures, input_figures
from chapterflow.batch.sources import Chunk
from chapterflow.data.card import DatasetCard

if TYPE_CHECKING:
    import pyarrow as pa

#: Columns that parts hold for the comparison with the reference, and the result does not.
HIDDEN = "drift/"
INPUT, SHA256, CLASS, TRUTH, SMOOTHED = ("input", "input_sha256", "class", "true_label", "smoothed")


def schema(card: DatasetCard, *, labelled: bool, figures: Sequence[str] = ()) -> pa.Schema:
    """Return names and types of the columns.

    Args:
        card: Of the data that the model learnt.
        labelled: Whether some inputs come with their class.
        figures: Names of the hidden columns; none for the result.
    """
    import pyarrow as pa

    columns = [(INPUT, pa.string()), (SHA256, pa.string())]
    if card.classes:
        columns += [(CLASS, pa.int32()), ("label", pa.string()), ("confidence", pa.float32())]
        columns += [(f"probability_{label}", pa.float32()) for label in card.classes]
    else:
        columns.append((SMOOTHED, pa.list_(pa.float32())))
    if labelled:
        columns.append((TRUTH, pa.string()))
    columns += [(HIDDEN + name, pa.float64()) for name in figures]
    return pa.schema(columns)


def rows(chunk: Chunk, answers: NDArray[np.float32], card: DatasetCard, wanted: pa.Schema) -> Any:
    """Return the rows of a chunk as a `pyarrow.Table`.

    Args:
        answers: Probabilities `(n, classes)`, or smoothed curves `(n, length, 1)`.
        wanted: Schema with the hidden columns of this chunk's figures; those missing are null.
    """
    import pyarrow as pa

    columns: dict[str, Any] = {INPUT: chunk.names, SHA256: chunk.hashes}
    if card.classes:
        classes = answers.argmax(1)
        columns |= {
            CLASS: classes.astype(np.int32),
            "label": [card.classes[place] for place in classes],
            "confidence": answers.max(1),
        }
        columns |= {
            f"probability_{label}": np.ascontiguousarray(answers[:, place])
            for place, label in enumerate(card.classes)
        }
        truth: Sequence[int | None] = chunk.truth or [None] * len(chunk.names)
        columns[TRUTH] = [None if place is None else card.classes[place] for place in truth]
    else:
        flat = answers.reshape(len(answers), -1)
        offsets = np.arange(len(flat) + 1, dtype=np.int32) * flat.shape[1]
        columns[SMOOTHED] = pa.ListArray.from_arrays(offsets, flat.ravel())
    found = input_figures(chunk.inputs) | answer_figures(answers, classes=bool(card.classes))
    columns |= {HIDDEN + name: values for name, values in found.items()}
    arrays = [
        pa.array(columns[name], type_) if name in columns else pa.nulls(len(chunk.names), type_)
        for name, type_ in zip(wanted.names, wanted.types, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=wanted)


def row_bytes(card: DatasetCard) -> int:
    """Return about how many bytes a row takes."""
    return 200 + 4 * (len(card.classes) or int(np.prod([side or 1 for side in card.shape])))
