"""Features of a frozen part, computed once and kept: `<scratch>/features/<key>/features.npy`.

The key covers all that decides the numbers: the data, the frozen part with its weights and its
preprocessing, and the augmented pass. So a key that is there is right, whoever wrote it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from chapterflow.data.card import Dataset
from chapterflow.errors import ChapterflowError

if TYPE_CHECKING:
    import keras

#: Bytes that all kept features may take together.
LIMIT = 2 << 30
#: Examples in a forward pass; of large photos, 32 take about 20 MB.
BATCH = 32
FEATURES = "features.npy"


def frozen_key(frozen: keras.Model) -> str:
    """Return a hash over the architecture and the weights of a frozen part."""
    found = hashlib.sha256(frozen.to_json().encode())
    for weight in frozen.weights:
        found.update(np.ascontiguousarray(weight).tobytes())
    for library in ("tensorflow", "keras"):
        found.update(version(library).encode())
    return found.hexdigest()


def cached_features(
    frozen: keras.Model,
    dataset: Dataset,
    chosen: NDArray[np.intp],
    folder: Path,
    *,
    change: Callable[[Any], Any] | None = None,
    change_key: str = "",
    limit: int = LIMIT,
) -> NDArray[np.float32]:
    """Return the features of chosen examples, memory-mapped; compute them where they are not kept.

    They are written in batches, so memory stays bounded, into a folder that is renamed when it is
    whole. Two processes that want the same features compute them once.

    Args:
        frozen: Raw inputs -> features.
        chosen: Positions of the examples.
        folder: Of all kept features.
        change: Changes a batch before the frozen part sees it (an augmented pass).
        change_key: Whatever decides what `change` does.
        limit: Bytes that all kept features may take; the least recently used go first.

    Returns:
        `(len(chosen), ...)`, in the order of `chosen`.

    Raises:
        ChapterflowError: If the folder cannot be written.
        DataError: If the features, or what reaches the backbone, are wrong.
    """
    parts = [
        dataset.card.digest,
        hashlib.sha256(np.ascontiguousarray(chosen, np.int64).tobytes()).hexdigest(),
        frozen_key(frozen),
        change_key,
    ]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    kept = folder / key
    try:
        with _locked(folder, key):
            if not (kept / FEATURES).is_file():
                part = folder / f"{key}.part"
                shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
                part.mkdir(parents=True)
                _write(part / FEATURES, frozen, dataset, chosen, change)
                (part / "about.json").write_text(json.dumps({"dataset": dataset.card.name}))
                part.rename(kept)
                _sync(folder)
            os.utime(kept)
            features: NDArray[np.float32] = np.load(kept / FEATURES, mmap_mode="r")
        evict(folder, limit, keep=key)
    except OSError as error:
        raise ChapterflowError(
            f"Features must be kept in {folder}. Received: {error.strerror or error}. Make room, "
            "or run `chapterflow data prune`"
        ) from None
    return features


def _write(
    path: Path,
    frozen: keras.Model,
    dataset: Dataset,
    chosen: NDArray[np.intp],
    change: Callable[[Any], Any] | None,
) -> None:
    import keras

    from chapterflow.models.parts.pixels import check_backbone_input, check_not_probabilities

    out: Any = None
    for start in range(0, len(chosen), BATCH):
        raw = dataset.inputs(chosen[start : start + BATCH])
        if start == 0:
            check_backbone_input(frozen, raw)
        given = raw if change is None else change(raw)
        batch = keras.ops.convert_to_numpy(frozen(given, training=False)).astype(np.float32)
        if out is None:
            check_not_probabilities(batch)
            shape = (len(chosen), *batch.shape[1:])
            out = np.lib.format.open_memmap(path, "w+", np.float32, shape)
        out[start : start + len(batch)] = batch
    out.flush()
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def evict(folder: Path, limit: int, keep: str = "") -> None:
    """Remove the least recently used features until the rest fit the limit; `keep` stays.

    Whoever reads removed features goes on reading them: the file lives until it is closed.
    """
    entries = sorted(_entries(folder), key=lambda entry: entry[1], reverse=True)
    total = sum(size for name, _, size in entries if name == keep)
    for name, _, size in entries:
        if name == keep:
            continue
        total += size
        if total > limit:
            _remove(folder, name)
            total -= size


def prune(folder: Path) -> int:
    """Remove all features that no process writes now, and return the bytes that this freed."""
    before = sum(size for _, _, size in _entries(folder))
    for name, _, _ in _entries(folder):
        _remove(folder, name)
    for part in folder.glob("*.part"):
        _remove(folder, part.name.removesuffix(".part"))
    return before - sum(size for _, _, size in _entries(folder))


def _entries(folder: Path) -> Iterator[tuple[str, float, int]]:
    """Yield name, time of last use and bytes of all kept features."""
    for path in folder.glob(f"*/{FEATURES}"):
        if path.parent.suffix != ".part":
            try:
                yield path.parent.name, path.parent.stat().st_mtime, path.stat().st_size
            except FileNotFoundError:
                continue  # another process removed it


def _remove(folder: Path, key: str) -> None:
    try:
        with _locked(folder, key, timeout=0):
            shutil.rmtree(folder / key, ignore_errors=True)
            shutil.rmtree(folder / f"{key}.part", ignore_errors=True)
    except Timeout:
        return  # in use


@contextmanager
def _locked(folder: Path, key: str, timeout: float = -1) -> Iterator[None]:
    locks = folder / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"{key}.lock", timeout=timeout):
        yield


def _sync(folder: Path) -> None:
    if os.name != "posix":  # Elsewhere a folder cannot be opened, and need not be.
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
