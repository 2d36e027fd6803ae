"""Files: content hashes and atomic publication."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: How often a folder is put into place while other processes put theirs there.
ATTEMPTS = 10


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def publish(new: Path, path: Path) -> None:
    """Move a finished file or folder to its place, replacing what is there.

    A reader sees the old or the new one, whole, also after a power cut; between two folders there
    is a moment without either.

    Args:
        new: On the same file system as `path`.
        path: Its place.
    """
    if new.is_dir():
        for file in new.rglob("*"):
            if file.is_file():
                _sync(file)
        _move_folder(new, path)
    else:
        _sync(new)
        os.replace(new, path)
    if os.name == "posix":  # Elsewhere a folder cannot be opened, and need not be.
        _sync(path.parent)


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield a path to write a file or a folder to, and publish it; after an error nothing remains.

    Args:
        path: Its place; its folder must exist.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        new = Path(folder) / path.name
        yield new
        publish(new, path)


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _move_folder(new: Path, path: Path) -> None:
    """Rename a folder; one cannot be renamed over another."""
    for attempt in range(ATTEMPTS):
        try:
            if not os.path.lexists(path):
                new.rename(path)
                return
            with tempfile.TemporaryDirectory(dir=new.parent, prefix=f".{new.name}-") as old:
                with contextlib.suppress(FileNotFoundError):
                    path.rename(Path(old) / path.name)
                new.rename(path)
            return
        except OSError:
            # Another process has put its folder there in between.
            if not path.is_dir() or attempt == ATTEMPTS - 1:
                raise
