"""The embedded profile's backbone: `small`, trained by the flow on the pretext data.

Trained once with the generic fit, and kept under `<scratch>/backbones/<key>/` for transfer and hub.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from chapterflow.data.card import Dataset
from chapterflow.models.parts.backbones import BackboneParams, backbone
from chapterflow.models.parts.base import ChapterModel, InputSpec
from chapterflow.models.parts.heads import HeadParams, head_layers

if TYPE_CHECKING:
    import keras

SMALL = BackboneParams(backbone="small", weights="none")
WEIGHTS = "small.weights.h5"
#: Turns and mirror images of a square image.
VIEWS = 8
RECIPE = HeadParams(role="pretext", epochs=4, batch_size=64, learning_rate=4e-3, pooling="flatten")
SEED = 5


@dataclass(frozen=True)
class Views(Dataset):
    """Each image in its eight orientations, and the orientation as part of the class.

    Telling orientations apart, too, makes more general features than the few classes alone
    (Lee et al., "Self-supervised label augmentation via input transformations", ICML 2020).
    """

    original: Dataset | None = None

    ARRAYS: ClassVar[tuple[str, ...]] = ("labels", "split")

    @property
    def count(self) -> int:
        """Number of images, over all orientations."""
        return len(self.arrays["split"])

    def inputs(self, chosen: NDArray[np.intp]) -> Any:
        """Return float32 images `(batch, h, w, c)`, turned and mirrored."""
        assert self.original is not None  # noqa: S101
        images, view = np.divmod(chosen, VIEWS)
        out: NDArray[np.float32] = np.array(self.original.inputs(images))
        for number in range(VIEWS):
            here = view == number
            turned = np.rot90(out[here], number % 4, axes=(1, 2))
            out[here] = turned[:, :, ::-1] if number >= 4 else turned
        return out


def views(dataset: Dataset) -> Views:
    """Return the orientations of a dataset of square images."""
    labels = np.repeat(dataset.labels.astype(np.int32), VIEWS) * VIEWS
    arrays = {
        "labels": labels + np.tile(np.arange(VIEWS, dtype=np.int32), dataset.count),
        "split": np.repeat(dataset.split, VIEWS),
    }
    names = [f"{name}/{view}" for name in dataset.card.classes for view in range(VIEWS)]
    card = dataset.card.model_copy(update={"classes": names})
    return Views(card, dataset.folder, arrays, dataset)


def ensure_backbone(dataset: Dataset, scratch: Path) -> Path:
    """Return the weights of `small`, trained on a dataset; train it where it is not there.

    Deterministic: the key covers data, recipe and libraries. A killed training goes on from its
    last epoch; two processes that want the same backbone train it once.

    Args:
        dataset: Square images with classes, of the role `pretext`.
        scratch: Folder of the project's scratch.

    Returns:
        A `.weights.h5` file for `backbone(BackboneParams(backbone="small"))`.
    """
    from chapterflow.training.fit import fit

    parts = {
        "data": dataset.card.digest,
        "recipe": RECIPE.model_dump(mode="json"),
        "network": SMALL.model_dump(mode="json"),
        "views": VIEWS,
        "seed": SEED,
        "libraries": {name: version(name) for name in ("tensorflow", "keras", "numpy")},
    }
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
    folder = scratch / "backbones"
    folder.mkdir(parents=True, exist_ok=True)
    kept, part = folder / key, folder / f"{key}.part"
    with FileLock(folder / f"{key}.lock"):
        if not (kept / WEIGHTS).is_file():
            entry = ChapterModel("pretext", HeadParams, _build, "Transfer learning", "pretext")
            fit(entry, RECIPE, views(dataset), seed=SEED, work=part, on_epoch=lambda record: None)
            _save_backbone(part / "model.keras", dataset.card.input_spec, part / "ready" / WEIGHTS)
            shutil.rmtree(kept, ignore_errors=True)
            (part / "ready").rename(kept)
            shutil.rmtree(part)
    return kept / WEIGHTS


def _build(params: HeadParams, data: InputSpec) -> keras.Model:
    import keras

    maps = backbone(SMALL, data)
    return keras.Model(maps.input, head_layers(params, maps.output, data.classes), name="pretext")


def _save_backbone(model: Path, data: InputSpec, path: Path) -> None:
    found = backbone(SMALL.model_copy(update={"weights": str(model)}), data)
    path.parent.mkdir(exist_ok=True)
    found.save_weights(path)
    with path.open("rb+") as file:
        os.fsync(file.fileno())
