"""Features of a frozen part, computed once and cached.

The cache key covers everything that affects the values: the data, the frozen part with its weights
and preprocessing, the augmented pass, and the code. Cached features are therefore valid whichever
process wrote them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from chapterflow.errors import ChapterflowError, check_space
from chapterflow.files import is_intact, publish, remove_sealed, seal, sha256_file
from chapterflow.kinds.dataset import Dataset, kind_modules
from chapterflow.models.base import ChapterModel, InputSpec, ModelParams
from chapterflow.plugins import shared_sources, source_file
from chapterflow.training.epochs import WEIGHTS, reset_keras
from chapterflow.training.seeds import seeded

if TYPE_CHECKING:
    import keras

#: Maximum size of all cached features, in bytes.
LIMIT = 2 << 30
#: Examples per forward pass; 32 large photos take about 20 MB.
BATCH = 32
FEATURES = "features.npy"


@cache
def code_digest(*kinds: str) -> str:
    """Return a hash over the source files that all models share, and those of kinds of data."""
    own = [path for kind in kinds if (path := source_file(kind_modules()[kind]))]
    hashes = (sha256_file(path) for path in [*sorted(shared_sources()), *own])
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def frozen_key(frozen: keras.Model) -> str:
    """Return a hash over the code, the architecture and the weights of a frozen part."""
    digest = hashlib.sha256(f"{code_digest()} {frozen.to_json()}".encode())
    for weight in frozen.weights:
        digest.update(np.ascontiguousarray(weight).tobytes())
    for library in ("tensorflow", "keras"):
        digest.update(version(library).encode())
    return digest.hexdigest()


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
    """Return memory-mapped features of chosen examples; compute them if they are not cached.

    Features are written in batches to bound memory, into a folder that is renamed when complete.
    Two processes that need the same features compute them once.

    Args:
        frozen: Raw inputs -> features.
        chosen: Positions of the examples.
        folder: Folder of all cached features.
        change: Applied to a batch before the frozen part reads it (an augmented pass).
        change_key: Everything that `change` depends on.
        limit: Maximum size of all cached features, in bytes; the least recently used features
            are removed first.

    Returns:
        `(len(chosen), ...)`, in the order of `chosen`.

    Raises:
        ChapterflowError: If the folder cannot be written.
        DataError: If the features or the inputs of the backbone are wrong.
    """
    parts = [
        dataset.card.digest,
        hashlib.sha256(np.ascontiguousarray(chosen, np.int64).tobytes()).hexdigest(),
        frozen_key(frozen),
        code_digest(dataset.card.kind),
        change_key,
    ]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    cached = folder / key
    try:
        with _locked(folder, key):
            if not is_intact(cached):
                part = folder / f"{key}.part"
                shutil.rmtree(part, ignore_errors=True)  # left by a killed process
                part.mkdir(parents=True)
                _write(part / FEATURES, frozen, dataset, chosen, change)
                (part / "about.json").write_text(json.dumps({"dataset": dataset.card.name}))
                publish(part, cached)
                seal(cached)
            os.utime(cached)
            features: NDArray[np.float32] = np.load(cached / FEATURES, mmap_mode="r")
        evict(folder, limit, keep=key)
    except OSError as error:
        raise ChapterflowError(
            f"Cannot cache features in {folder}. Received: {error.strerror or error}. Free disk "
            "space, for example with `chapterflow data prune`"
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

    from chapterflow.models.layers.preprocessing import (
        check_backbone_input,
        check_not_probabilities,
    )

    out: Any = None
    for start in range(0, len(chosen), BATCH):
        raw = dataset.inputs(chosen[start : start + BATCH])
        if start == 0:
            check_backbone_input(frozen, raw)
        inputs = raw if change is None else change(raw)
        batch = keras.ops.convert_to_numpy(frozen(inputs, training=False)).astype(np.float32)
        if out is None:
            check_not_probabilities(batch)
            shape = (len(chosen), *batch.shape[1:])
            # On a full disk, writing to the memory map would kill the process.
            check_space(path.parent, 4 * math.prod(shape) + (1 << 20), "caching features")
            out = np.lib.format.open_memmap(path, "w+", np.float32, shape)
        out[start : start + len(batch)] = batch
    out.flush()


def evict(folder: Path, limit: int, keep: str = "") -> None:
    """Remove the least recently used features until the rest fit the limit, except `keep`.

    A process that reads removed features can continue: the file exists until it is closed.
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
    """Remove all features that no process is writing, and return the number of freed bytes."""
    before = sum(size for _, _, size in _entries(folder))
    for name, _, _ in _entries(folder):
        _remove(folder, name)
    for part in folder.glob("*.part"):
        _remove(folder, part.name.removesuffix(".part"))
    return before - sum(size for _, _, size in _entries(folder))


def _entries(folder: Path) -> Iterator[tuple[str, float, int]]:
    """Yield name, time of last use and bytes of all cached features."""
    for path in folder.glob(f"*/{FEATURES}"):
        if path.parent.suffix != ".part":
            try:
                yield path.parent.name, path.parent.stat().st_mtime, path.stat().st_size
            except FileNotFoundError:
                continue  # another process removed it


def _remove(folder: Path, key: str) -> None:
    try:
        with _locked(folder, key, timeout=0):
            remove_sealed(folder / key)
            shutil.rmtree(folder / f"{key}.part", ignore_errors=True)
    except Timeout:
        return  # in use


@contextmanager
def _locked(folder: Path, key: str, timeout: float = -1) -> Iterator[None]:
    locks = folder / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"{key}.lock", timeout=timeout):
        yield


@dataclass(frozen=True)
class FeatureDataset(Dataset):
    """The train and validation splits of a dataset as features of a frozen part.

    Augmented passes follow the plain examples, as additional examples of the train split.

    Attributes:
        passes: Features of each augmented pass over the train split, in the order of the split.
    """

    passes: list[NDArray[Any]] = field(default_factory=list)

    ARRAYS: ClassVar[tuple[str, ...]] = ("features", "labels", "split")

    def inputs(self, chosen: NDArray[np.intp]) -> Any:
        """Return float32 features `(batch, ...)`."""
        plain = self.arrays["features"]
        out = np.empty((len(chosen), *plain.shape[1:]), np.float32)
        bounds = np.cumsum([len(plain), *map(len, self.passes)])
        source = np.searchsorted(bounds, chosen, side="right")
        for number, array in enumerate((plain, *self.passes)):
            here = source == number
            first = bounds[number] - len(array)
            out[here] = array[chosen[here] - first]
        return out


def feature_dataset(
    frozen: keras.Model, dataset: Dataset, params: ModelParams, folder: Path, seed: int
) -> FeatureDataset:
    """Return the features of train and validation; the test split is not read."""
    train, validation = dataset.indices("train"), dataset.indices("validation")
    chosen = np.concatenate([train, validation])
    plain = cached_features(frozen, dataset, chosen, folder)
    passes = []
    for number, change in enumerate(_changes(params, dataset, seed)):
        key = f"{params.augment.model_dump_json()} {seed} {number}"  # type: ignore[attr-defined]
        passes.append(
            cached_features(frozen, dataset, train, folder, change=change, change_key=key)
        )
    order = np.concatenate([chosen, *([train] * len(passes))])
    arrays = {"features": plain, "labels": dataset.labels[order], "split": dataset.split[order]}
    card = dataset.card.model_copy(update={"shape": list(plain.shape[1:])})
    return FeatureDataset(card, dataset.folder, arrays, passes)


def _changes(params: ModelParams, dataset: Dataset, seed: int) -> Iterator[Callable[[Any], Any]]:
    """Yield a function per augmented pass; each has its own random stream."""
    import keras

    from chapterflow.models.layers.heads import HeadParams, augmented

    if not isinstance(params, HeadParams):
        return
    for number in range(params.augment.passes):
        with seeded(seed, f"augmented pass {number}"):
            inputs = keras.Input(dataset.card.shape)
            model = keras.Model(inputs, augmented(params.augment, inputs, dataset.card.value_max))
        yield partial(model, training=True)


def frozen_part(
    entry: ChapterModel[Any], params: ModelParams, dataset: Dataset, seed: int
) -> keras.Model | None:
    """Return the part of a model that is not trained; None if its parameters freeze nothing.

    Args:
        params: Parameters whose weights are paths (`with_files`).

    Raises:
        DataError: If the inputs of a trainable backbone are on the wrong scale.
    """
    assert entry.frozen is not None  # noqa: S101
    reset_keras()
    with seeded(seed, WEIGHTS):
        frozen = entry.frozen(params, dataset.card.input_spec)
        if frozen is None:
            from chapterflow.models.layers.preprocessing import check_backbone_input

            chosen = dataset.indices("train")[:BATCH]
            whole = entry.build(params, dataset.card.input_spec)
            check_backbone_input(whole, dataset.inputs(chosen))
    return frozen


def joined(
    entry: ChapterModel[Any], params: ModelParams, data: InputSpec, head: keras.Model, seed: int
) -> keras.Model:
    """Return the whole model, raw values -> logits, with the weights of a trained head."""
    with seeded(seed, WEIGHTS):  # the weights of the frozen part may be random
        model = entry.build(params, data)
    for layer in head.layers:
        if layer.weights:
            model.get_layer(layer.name).set_weights(layer.get_weights())
    return model


def check_joined(
    model: keras.Model, head: keras.Model, dataset: Dataset, features: FeatureDataset
) -> None:
    """Refuse a joined model whose logits differ from the logits of its parts.

    Raises:
        ChapterflowError: If they differ by more than rounding.
    """
    chosen = dataset.indices("train")[:4]
    whole = np.asarray(model(dataset.inputs(chosen), training=False))
    parts = np.asarray(head(features.inputs(np.arange(len(chosen))), training=False))
    if not np.allclose(whole, parts, rtol=1e-2, atol=1e-2 * max(1.0, float(np.abs(parts).max()))):
        raise ChapterflowError(
            f"The joined {model.name} must give the logits of its parts. Received: logits "
            f"that differ by {np.abs(whole - parts).max():.3g}. Run `chapterflow data prune` and "
            "train again"
        )
