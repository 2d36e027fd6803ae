"""Handles of SavedModels (path, file:// or http(s) address, archive) -> a folder, and its hash."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from chapterflow.errors import ConfigError, DataError, FetchError

#: What an archive may unpack to.
MAX_BYTES = 4 << 30


def saved_model_folder(handle: str) -> Path:
    """Return the folder of the SavedModel that a handle names.

    An http(s) address is fetched by `tensorflow_hub`, which keeps it in `TFHUB_CACHE_DIR`; a local
    archive, which that library does not take, is unpacked there.

    Raises:
        ConfigError: If the handle names nothing.
        DataError: If what it names is not a SavedModel, or its archive leads out of its folder.
        FetchError: If it cannot be fetched.
    """
    if handle.split("://", maxsplit=1)[0] in ("http", "https"):
        folder = _fetched(handle)
    elif "://" in handle and not handle.startswith("file://"):
        raise ConfigError(
            "A handle must be a path, or a file://, http:// or https:// address. "
            f"Received: {handle}"
        )
    else:
        name = url2pathname(urlsplit(handle).path) if handle.startswith("file:") else handle
        folder = Path(name).expanduser().absolute()
        if folder.is_file():
            folder = _unpacked(folder)
    if not (folder / "saved_model.pb").is_file():
        raise (DataError if folder.is_dir() else ConfigError)(
            "A handle must lead to a folder with a saved_model.pb, or an archive (.tar.gz) of one. "
            f"Received: {handle}"
        )
    return folder


def tree_hash(folder: Path) -> str:
    """Return a SHA-256 over the paths and bytes of all files of a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            found.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return found.hexdigest()


def check_hash(folder: Path, expected: str, handle: str) -> None:
    """Refuse a SavedModel whose files are not those of its hash.

    Raises:
        DataError: If they are not.
    """
    received = tree_hash(folder)
    if received != expected:
        raise DataError(
            f"check_hash: the SavedModel of {handle} must have the SHA-256 {expected}. "
            f"Received: {received}. Do not use it; get it from where it came from again"
        )


def _fetched(handle: str) -> Path:
    import tensorflow_hub as hub

    try:
        return Path(hub.resolve(handle))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FetchError(
            f"The handle {handle} must be fetched, or lie in TFHUB_CACHE_DIR. Received: {reason}. "
            "Fetch it where there is a network and give its path"
        ) from error


def _unpacked(archive: Path) -> Path:
    """Unpack an archive once, into a folder named by its content."""
    cache = Path(os.environ.get("TFHUB_CACHE_DIR") or Path(tempfile.gettempdir()) / "tfhub_modules")
    with archive.open("rb") as file:
        target = cache / hashlib.file_digest(file, "sha256").hexdigest()
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="unpack-") as temporary:
        fresh = Path(temporary) / "model"
        try:
            with tarfile.open(archive) as tar:
                if sum(member.size for member in tar) > MAX_BYTES:
                    raise DataError(
                        f"An archive may unpack to {MAX_BYTES} bytes. Received: {archive}, which "
                        "unpacks to more"
                    )
                _check_members(tar)
                # Python 3.11.0 to 3.11.3 have no filters; later ones check once more.
                checked: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
                tar.extractall(fresh, **checked)  # noqa: S202 - members are checked
        except tarfile.TarError as error:
            raise DataError(
                "A handle must lead to a .tar.gz archive whose members stay within its folder. "
                f"Received: {archive} ({error})"
            ) from error
        try:
            fresh.rename(target)
        except OSError:
            if not target.is_dir():  # another process was faster
                raise
    return target


def copy_tree(source: Path, target: Path) -> None:
    """Copy a SavedModel's files."""
    shutil.copytree(source, target, dirs_exist_ok=True)


def _check_members(tar: tarfile.TarFile) -> None:
    """Refuse members that are no plain files or folders, or that lead out of the archive's folder.

    Raises:
        tarfile.TarError: If there is one; it names the member.
    """
    for member in tar:
        parts = PurePosixPath(member.name.replace("\\", "/")).parts
        if not (member.isreg() or member.isdir()) or ".." in parts or "/" in parts[:1]:
            raise tarfile.ReadError(f"the member {member.name!r} is not allowed")
