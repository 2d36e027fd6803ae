"""Decompressed bytes of a file that came compressed or not, and the check of size and hash."""

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from chapterflow.errors import DataError
from chapterflow.settings.types import RemoteFile

#: Largest decompressed size of a file for which `params.yaml` gives none: 4 GiB.
MAX_BYTES = 4 << 30


@contextmanager
def open_decompressed(path: Path) -> Iterator[BinaryIO]:
    """Open a file, gzip-compressed or not, for reading its decompressed bytes.

    Raises:
        DataError: On entering or while reading, if the file cannot be read or is damaged.
    """
    name = path.name.removesuffix(".part")
    try:
        with path.open("rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if compressed:
                with gzip.GzipFile(fileobj=raw) as stream:
                    yield stream  # type: ignore[misc]
            else:
                yield raw
    except EOFError:
        raise DataError(f"{name} must be whole gzip data. Received: a truncated file") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{name} must be intact gzip data. Received: {error}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def verify(path: Path, file: RemoteFile) -> None:
    """Check size and hash of the decompressed bytes, without holding them."""
    limit = file.bytes or MAX_BYTES
    digest = hashlib.sha256()
    size = 0
    with open_decompressed(path) as stream:
        while chunk := stream.read(1 << 20):
            size += len(chunk)
            if size > limit:  # A decompression bomb ends here.
                break
            digest.update(chunk)
    if size > limit or (file.bytes is not None and size != file.bytes):
        received = f"more than {limit:,}" if size > limit else f"{size:,}"
        most = "" if file.bytes else "at most "
        raise DataError(
            f"decompressed, {file.name} must have {most}{limit:,} bytes. Received: {received}"
        )
    if file.sha256 is not None and digest.hexdigest() != file.sha256:
        raise DataError(
            f"decompressed, {file.name} must have sha256 {file.sha256}. "
            f"Received: {digest.hexdigest()}"
        )
