"""Parts of a batch become one table, and the figures of all of it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from chapterflow.batch.drift import Reference, Tally
from chapterflow.batch.inputs import Inputs
from chapterflow.batch.parts import Parts
from chapterflow.batch.table import CLASS, HIDDEN, INPUT, SHA256, TRUTH
from chapterflow.data.card import DatasetCard

if TYPE_CHECKING:
    import pyarrow as pa

#: Rows that are looked at at once.
ROWS = 8192


class Joined:
    """What is gathered while the parts go into the result.

    Attributes:
        tallies: Each figure's counts, by name.
        datasets: Digest of each dataset among the inputs, by name.
        hash: Over names and hashes of all examples.
        unread: What could not be read.
        notes: What was done to how many inputs.
        classes: How often each class was predicted, by its number.
        examples: How many there are.
        labelled: Those that came with their class.
        correct: Those of them whose class was predicted.
    """

    def __init__(self, card: DatasetCard, inputs: Inputs, reference: Reference) -> None:
        names = sorted({*reference.figures, *reference.missing})
        self.tallies = {name: Tally(name, reference, card.classes) for name in names}
        self.datasets = inputs.datasets()
        self.hash = hashlib.sha256(json.dumps(self.datasets, sort_keys=True).encode())
        self.unread = list(inputs.unread)
        self.notes: Counter[str] = Counter()
        self.classes: Counter[int] = Counter()
        self.examples = self.labelled = self.correct = 0

    def tables(self, parts: Parts) -> Iterator[pa.Table]:
        """Yield the rows of the parts, some at a time: as text of Python they take much memory."""
        for part, unread, notes in parts.read():
            self.unread += unread
            self.notes += notes
            for start in range(0, part.num_rows, ROWS):
                yield self._gather(part.slice(start, ROWS))

    def _gather(self, table: pa.Table) -> pa.Table:
        import pyarrow.compute as pc

        self.examples += table.num_rows
        for name, digest in zip(table[INPUT].to_pylist(), table[SHA256].to_pylist(), strict=True):
            self.hash.update(f"{name} {digest or '-'}\n".encode())
        for name, tally in self.tallies.items():
            if HIDDEN + name in table.column_names:
                tally.add(table[HIDDEN + name].drop_null().to_numpy())
        if CLASS in table.column_names:
            self.classes.update(table[CLASS].to_pylist())
        if TRUTH in table.column_names:
            right = pc.equal(table[TRUTH], table["label"])
            self.labelled += table.num_rows - right.null_count
            self.correct += pc.sum(right).as_py() or 0
        return table
