"""The table of predictions: its columns, its parts on disk, and the joined file."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.files import publish, sha256_file
from chapterflow.kinds.dataset import DatasetCard
from chapterflow.kinds.likeness import Likeness
from chapterflow.predict.batch_inputs import BatchInputs, Chunk, Unread
from chapterflow.predict.drift import Reference, Tally, answer_figures, input_figures

if TYPE_CHECKING:
    import pyarrow as pa

#: Prefix of columns that only parts have: the figures that drift compares.
HIDDEN = "drift/"
INPUT, SHA256, CLASS, TRUTH, SMOOTHED = ("input", "input_sha256", "class", "true_label", "smoothed")
#: Column that says what makes an input unlike the training data; null for the others.
NOTE = "note"
#: Limits of a part: seconds of work and bytes of rows that an interruption may cost. Only one part
#: and one row group are in memory, several times over.
PART_SECONDS, PART_BYTES = 5.0, 4_000_000
#: Limits of a row group of the result; they do not depend on interruptions.
GROUP_ROWS, GROUP_BYTES = 16_384, 8_000_000
#: Rows that are counted at once.
ROWS = 8192
#: Age at which abandoned parts are removed.
ABANDONED_SECONDS = 7 * 24 * 3600
#: Key of the result's metadata: the run in MLflow that wrote it.
RUN_KEY = "chapterflow.run"
#: Key of a part's metadata: unread inputs and notes of its chunks.
PART_KEY = b"chapterflow.part"


def schema(card: DatasetCard, *, labelled: bool, figures: Sequence[str] = ()) -> pa.Schema:
    """Return the names and types of the columns.

    Args:
        card: Of the data that the model was trained on.
        labelled: Whether the true class of some inputs is known.
        figures: Names of the hidden columns; none for the result.
    """
    import pyarrow as pa

    columns = [(INPUT, pa.string()), (SHA256, pa.string())]
    if card.task.classes:
        columns += [(CLASS, pa.int32()), ("label", pa.string()), ("confidence", pa.float32())]
        columns += [(f"probability_{label}", pa.float32()) for label in card.classes]
    else:
        columns.append((SMOOTHED, pa.list_(pa.float32())))
    if labelled:
        columns.append((TRUTH, pa.string()))
    columns.append((NOTE, pa.string()))
    columns += [(HIDDEN + name, pa.float64()) for name in figures]
    return pa.schema(columns)


def rows(
    chunk: Chunk,
    answers: NDArray[np.float32],
    card: DatasetCard,
    schema: pa.Schema,
    likeness: Likeness | None,
) -> Any:
    """Return the rows of a chunk as a `pyarrow.Table`.

    Args:
        answers: Probabilities `(n, classes)`, or smoothed curves `(n, length, 1)`.
        schema: Columns, the hidden ones included; those without values are null.
        likeness: Bounds of the inputs that the model learnt.
    """
    import pyarrow as pa

    columns: dict[str, Any] = {INPUT: chunk.names, SHA256: chunk.hashes}
    if card.task.classes:
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
    if likeness:
        columns[NOTE] = [note or None for note in likeness.notes(chunk.inputs)]
    figures = input_figures(card.kind, chunk.inputs) | answer_figures(
        answers, classes=card.task.classes
    )
    columns |= {HIDDEN + name: values for name, values in figures.items()}
    arrays = [
        pa.array(columns[name], type_) if name in columns else pa.nulls(len(chunk.names), type_)
        for name, type_ in zip(schema.names, schema.types, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def row_bytes(card: DatasetCard) -> int:
    """Return the approximate size of a row in bytes."""
    return 200 + 4 * (len(card.classes) or int(np.prod([side or 1 for side in card.shape])))


class Parts:
    """The parts of one batch, in a folder of their own.

    Attributes:
        folder: Named by a hash of the version and the inputs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def chunks(self) -> int:
        """Return the number of finished chunks before the first gap; remove later parts."""
        finished = 0
        for path in self._files():
            start, stop = (int(number) for number in path.stem.split("-")[1:])
            if start == finished:
                finished = stop
            else:
                path.unlink()
        return finished

    def write(
        self,
        start: int,
        stop: int,
        table: pa.Table,
        unread: list[Unread],
        notes: Mapping[str, int],
    ) -> None:
        """Write the rows of the chunks from `start` to before `stop`."""
        import pyarrow.parquet as pq

        metadata = {"unread": [item.model_dump() for item in unread], "notes": dict(notes)}
        path = self.folder / f"part-{start:09}-{stop:09}.parquet"
        temporary = path.with_suffix(".tmp")
        encoded = {PART_KEY: json.dumps(metadata).encode()}
        pq.write_table(table.replace_schema_metadata(encoded), temporary)
        publish(temporary, path)

    def read(self) -> Iterator[tuple[pa.Table, list[Unread], Counter[str]]]:
        """Yield the rows, unread inputs and notes of each part, in order."""
        import pyarrow.parquet as pq

        for path in self._files():
            # Not through a memory map, whose pages would count as this process's memory.
            table = pq.read_table(path, memory_map=False, partitioning=None)
            metadata = json.loads(table.schema.metadata[PART_KEY])
            unread = [Unread.model_validate(item) for item in metadata["unread"]]
            yield table, unread, Counter(metadata["notes"])

    def rows(self) -> int:
        """Return the number of rows of all parts."""
        import pyarrow.parquet as pq

        return sum(pq.read_metadata(path).num_rows for path in self._files())

    def remove(self) -> None:
        """Remove the parts."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.parquet"))


def remove_abandoned(batches: Path) -> None:
    """Remove the parts of batches that were not resumed for a week.

    Args:
        batches: Folder of the folders of parts.
    """
    for folder in batches.iterdir() if batches.is_dir() else ():
        newest = max((path.stat().st_mtime for path in (folder, *folder.glob("*"))), default=0)
        if time.time() - newest > ABANDONED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def write_result(
    temporary: Path,
    tables: Iterator[pa.Table],
    schema: pa.Schema,
    row_bytes: int,
    metadata: Callable[[], Mapping[str, Any]],
) -> str:
    """Write all rows as one Parquet file, and return its SHA-256.

    The size of row groups does not depend on the parts.

    Args:
        temporary: File to write; the caller publishes it.
        schema: Columns of the result; others are dropped.
        row_bytes: Approximate size of a row.
        metadata: Returns key-value metadata of the file; called after all tables were read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = max(1, min(GROUP_ROWS, GROUP_BYTES // row_bytes))
    with pq.ParquetWriter(temporary, schema) as writer:
        waiting = schema.empty_table()
        for table in tables:
            waiting = pa.concat_tables([waiting, table.select(schema.names).cast(schema)])
            while waiting.num_rows >= size:
                writer.write_table(waiting.slice(0, size))
                waiting = waiting.slice(size)
        if waiting.num_rows:
            writer.write_table(waiting)
        writer.add_key_value_metadata({key: str(value) for key, value in metadata().items()})
    return sha256_file(temporary)


class Totals:
    """Totals of a batch, counted while its parts are joined.

    Attributes:
        tallies: Counts of each figure, by name.
        datasets: Digest of each dataset among the inputs, by name.
        hash: Over names and hashes of all examples.
        unread: Examples that could not be read.
        notes: How many inputs were changed to fit the model, by change.
        classes: Number of predictions of each class, by its number.
        examples: Number of examples.
        labelled: Number of examples whose true class is known.
        correct: Number of those whose true class was predicted.
        unlike: Number of examples that are unlike the training data.
        first_unlike: The first of them, and what makes it unlike.
    """

    def __init__(self, card: DatasetCard, inputs: BatchInputs, reference: Reference) -> None:
        names = sorted({*reference.figures, *reference.missing})
        self.tallies = {name: Tally(name, reference, card.classes) for name in names}
        self.datasets = inputs.datasets()
        self.hash = hashlib.sha256(json.dumps(self.datasets, sort_keys=True).encode())
        self.unread = list(inputs.unread)
        self.notes: Counter[str] = Counter()
        self.classes: Counter[int] = Counter()
        self.examples = self.labelled = self.correct = self.unlike = 0
        self.first_unlike = ""

    def tables(self, parts: Parts) -> Iterator[pa.Table]:
        """Yield the rows of the parts, few at once: as Python objects they take much memory."""
        for part, unread, notes in parts.read():
            self.unread += unread
            self.notes += notes
            for start in range(0, part.num_rows, ROWS):
                yield self._count(part.slice(start, ROWS))

    def unlike_notes(self) -> list[str]:
        """Return a line about the examples that are unlike the training data, if there are any."""
        if not self.unlike:
            return []
        return [
            f"{self.unlike:,} of {self.examples:,} inputs are unlike the training data: the model "
            f"may know nothing of them (column `{NOTE}`). The first is {self.first_unlike}."
        ]

    def _count(self, table: pa.Table) -> pa.Table:
        import pyarrow.compute as pc

        self.examples += table.num_rows
        for name, digest in zip(table[INPUT].to_pylist(), table[SHA256].to_pylist(), strict=True):
            self.hash.update(f"{name} {digest or '-'}\n".encode())
        for name, tally in self.tallies.items():
            if HIDDEN + name in table.column_names:
                tally.add(table[HIDDEN + name].drop_null().to_numpy())
        marked = table.filter(pc.is_valid(table[NOTE]))
        if marked.num_rows and not self.unlike:
            self.first_unlike = f"{marked[INPUT][0].as_py()}: {marked[NOTE][0].as_py()}"
        self.unlike += marked.num_rows
        if CLASS in table.column_names:
            self.classes.update(table[CLASS].to_pylist())
        if TRUTH in table.column_names:
            correct = pc.equal(table[TRUTH], table["label"])
            self.labelled += table.num_rows - correct.null_count
            self.correct += pc.sum(correct).as_py() or 0
        return table
