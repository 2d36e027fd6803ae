"""A model's answers to chunk after chunk, kept as parts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from chapterflow.batch import parts as kept
from chapterflow.batch.parts import Parts
from chapterflow.batch.sources import Chunk, DatasetPart, Source, Unread, answers
from chapterflow.batch.table import rows, schema
from chapterflow.data.card import DatasetCard
from chapterflow.evaluation.cost import compiled_forward
from chapterflow.models.parts.base import with_softmax

if TYPE_CHECKING:
    import keras


def predict_parts(
    network: keras.Model,
    card: DatasetCard,
    sources: Sequence[Source],
    parts: Parts,
    *,
    shape: tuple[int, ...],
    figures: Sequence[str],
    on_chunk: Callable[[int, int], None],
) -> None:
    """Predict what no part holds yet.

    The borders of chunks do not depend on where a killed process stopped, so neither does a bit of
    what comes out.

    Args:
        network: Model that answers logits, or smoothed curves.
        card: Of the data that it learnt.
        shape: Of one example, where inputs are files.
        figures: Names of the hidden columns.
        on_chunk: Told how many examples were read and how many could not be, since the call.
    """
    import pyarrow as pa

    forward = _forward(network, card, sources, shape)
    labelled = is_labelled(sources)
    wanted = schema(card, labelled=labelled, figures=figures)
    start = position = parts.chunks()
    tables: list[Any] = []
    unread: list[Unread] = []
    notes: Counter[str] = Counter()
    since = time.monotonic()
    read = lost = 0

    def write() -> None:
        nonlocal start, since
        if tables:
            parts.write(start, position, pa.concat_tables(tables), unread, notes)
        tables.clear()
        unread.clear()
        notes.clear()
        start, since = position, time.monotonic()

    for source, number in _chunks(sources, position):
        chunk = source.read(number)
        tables.append(
            rows(chunk, answers(forward, chunk), card, wanted)
            if chunk.names
            else wanted.empty_table()
        )
        unread.extend(chunk.unread)
        notes.update(chunk.notes)
        position += 1
        read += len(chunk.names)
        lost += sum(one.count for one in chunk.unread)
        on_chunk(read, lost)
        size = sum(table.nbytes for table in tables)
        if size > kept.PART_BYTES or time.monotonic() - since > kept.PART_SECONDS:
            write()
    write()


def is_labelled(sources: Sequence[Source]) -> bool:
    """Tell whether some examples come with their class."""
    return any(isinstance(one, DatasetPart) and bool(one.dataset.card.classes) for one in sources)


def _chunks(sources: Sequence[Source], done: int) -> Iterator[tuple[Source, int]]:
    """Yield every chunk behind the first `done` ones."""
    for source in sources:
        yield from ((source, number) for number in range(min(done, source.chunks), source.chunks))
        done = max(0, done - source.chunks)


def _forward(
    network: keras.Model, card: DatasetCard, sources: Sequence[Source], shape: tuple[int, ...]
) -> Callable[[Chunk], Any]:
    """Return the model as a function of batches; of one whole graph, the model itself."""
    model: Any = with_softmax(network) if card.classes else network
    shapes: Any = ((None, *shape), "float32")
    for source in sources:
        if isinstance(source, DatasetPart):
            if source.dataset.WHOLE:
                found: Callable[[Chunk], Any] = model
                return found
            shapes = source.dataset.input_shapes()
    return compiled_forward(model, shapes)
