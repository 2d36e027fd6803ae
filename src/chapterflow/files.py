"""Files: opened only if regular; content hashes and atomic publication."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from chapterflow.errors import DataError

#: Attempts to move a folder while other processes move theirs to the same place.
ATTEMPTS = 10


#: What a file may be instead of a regular one, for messages.
_SPECIAL = {
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFDIR: "a folder",
}


def open_regular(path: Path | str) -> BufferedReader:
    """Open a file of a user for reading, if it is a regular file or a link to one.

    Reading a named pipe or a device may never end, and opening a pipe waits for a writer.

    Raises:
        DataError: If it is something else.
        OSError: If it cannot be opened.
    """
    file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115 - closed by the caller
    kind = stat.S_IFMT(os.fstat(file.fileno()).st_mode)
    if kind != stat.S_IFREG:
        file.close()
        raise DataError(f"{path} must be a regular file. Received: {_SPECIAL.get(kind, kind)}")
    return file


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting for a writer; for regular files it makes no difference."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in a folder, by its path there."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {name: sha256_file(path) for name, path in sorted(files.items()) if path.is_file()}


def seal(folder: Path) -> None:
    """Record next to a finished folder what its files contain, for `is_intact`."""
    with staged(_seal(folder)) as new:
        new.write_text(_digest(folder), encoding="utf-8")


def is_intact(folder: Path) -> bool:
    """Tell whether a folder is there with the files that it had when it was sealed."""
    try:
        return folder.is_dir() and _seal(folder).read_text(encoding="utf-8") == _digest(folder)
    except (OSError, UnicodeDecodeError):
        return False


def _seal(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.sha256")


def _digest(folder: Path) -> str:
    return hashlib.sha256(json.dumps(hashes(folder)).encode()).hexdigest()


def remove_sealed(folder: Path) -> None:
    """Remove a folder and its seal, if they are there."""
    _seal(folder).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def publish(new: Path, path: Path) -> None:
    """Move a finished file or folder to its destination, replacing the previous one.

    Readers see either the complete old or the complete new version, even after a power failure.
    While one folder replaces another, there is a moment with neither.

    Args:
        new: File or folder on the same file system as `path`.
        path: Destination.
    """
    if new.is_dir():
        for file in new.rglob("*"):
            if file.is_file():
                _sync(file)
        _move_folder(new, path)
    else:
        _sync(new)
        os.replace(new, path)
    if os.name == "posix":  # Other systems cannot open a folder, and need no sync of it.
        _sync(path.parent)


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield a path to write a file or folder to, then publish it; after an error nothing remains.

    Args:
        path: Destination, in an existing folder.
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
    """Move a folder; a rename cannot replace an existing folder."""
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
        except OSError as error:
            # Another process has moved its folder there in the meantime, and perhaps away again.
            taken = path.is_dir() or error.errno in (errno.ENOTEMPTY, errno.EEXIST)
            if not taken or attempt == ATTEMPTS - 1:
                raise
