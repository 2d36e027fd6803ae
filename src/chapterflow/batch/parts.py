"""Finished parts on disk, so that a killed batch goes on; and one file out of them."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chapterflow.batch.sources import Unread
from chapterflow.data.card import sha256_file

if TYPE_CHECKING:
    import pyarrow as pa

#: A part is written after so many seconds or bytes of rows: what a killed process may lose.
#: Of the table, only a part and a row group are in memory, several times over.
PART_SECONDS, PART_BYTES = 5.0, 4_000_000
#: Rows and bytes of a row group of the result; they depend on nothing that an interruption changes.
GROUP_ROWS, GROUP_BYTES = 16_384, 8_000_000
#: Parts of a batch that nobody went on with are removed after so long.
KEPT_SECONDS = 7 * 24 * 3600
#: Key of the result's metadata: the run in MLflow that wrote it.
RUN_KEY = "chapterflow.run"
#: Key of a part's metadata: what its chunks told besides rows.
TOLD = b"chapterflow.part"


class Parts:
    """The parts of one batch, in a folder of their own.

    Attributes:
        folder: Named by what is predicted, with what.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def chunks(self) -> int:
        """Return how many chunks are done, from the first on; parts that follow a gap go."""
        done = 0
        for path in self._files():
            start, stop = (int(number) for number in path.stem.split("-")[1:])
            if start == done:
                done = stop
            else:
                path.unlink()
        return done

    def write(
        self,
        start: int,
        stop: int,
        table: pa.Table,
        unread: list[Unread],
        notes: Mapping[str, int],
    ) -> None:
        """Keep the rows of the chunks from `start` to before `stop`."""
        import pyarrow.parquet as pq

        told = {"unread": [one.model_dump() for one in unread], "notes": dict(notes)}
        path = self.folder / f"part-{start:09}-{stop:09}.parquet"
        temporary = path.with_suffix(".tmp")
        pq.write_table(table.replace_schema_metadata({TOLD: json.dumps(told).encode()}), temporary)
        put(temporary, path)

    def read(self) -> Iterator[tuple[pa.Table, list[Unread], Counter[str]]]:
        """Yield rows, unread inputs and notes of each part, in order."""
        import pyarrow.parquet as pq

        for path in self._files():
            # Not through a memory map: its pages would count as this process's memory.
            table = pq.read_table(path, memory_map=False, partitioning=None)
            told = json.loads(table.schema.metadata[TOLD])
            unread = [Unread.model_validate(one) for one in told["unread"]]
            yield table, unread, Counter(told["notes"])

    def rows(self) -> int:
        """Return the number of rows of all parts."""
        import pyarrow.parquet as pq

        return sum(pq.read_metadata(path).num_rows for path in self._files())

    def remove(self) -> None:
        """Remove the parts: the result is there."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.parquet"))


def remove_forgotten(above: Path) -> None:
    """Remove the parts of batches that nobody went on with for a week."""
    for folder in above.iterdir() if above.is_dir() else ():
        newest = max((path.stat().st_mtime for path in (folder, *folder.glob("*"))), default=0)
        if time.time() - newest > KEPT_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def write_result(
    temporary: Path,
    tables: Iterator[pa.Table],
    schema: pa.Schema,
    row_bytes: int,
    metadata: Callable[[], Mapping[str, Any]],
) -> str:
    """Write all rows as one Parquet file, and return its SHA-256.

    Row groups have one size, whatever the parts.

    Args:
        temporary: File to write; the caller puts it in its place.
        schema: Columns of the result; others are left out.
        row_bytes: About how many bytes a row takes.
        metadata: Called when all tables were read; key-value metadata of the file.
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


def put(temporary: Path, path: Path) -> None:
    """Move a finished file to its place, so that after a power cut the old or the new one is there.

    Raises:
        OSError: If the place cannot be written.
    """
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
