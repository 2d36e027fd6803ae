"""Sources of volumes: generated bodies, and `.npz` files in the layout of MedMNIST's 3D sets."""

from typing import Annotated, Literal

from pydantic import Field

from chapterflow.models.parts.base import Strict
from chapterflow.settings.types import RemoteFile, Seed, SplitShare


class Solids(Strict):
    """Generated bodies of seven kinds as voxels, turned, moved and scaled at random.

    Attributes:
        seed: Seed of bodies, noise and splits.
        each: Bodies of each kind.
        side: Voxels along each axis.
        validation: Share of all bodies for early stopping.
        test: Share of all bodies held out for evaluation.
    """

    kind: Literal["solids"]
    seed: Seed
    each: Annotated[int, Field(ge=4)]
    side: Annotated[int, Field(ge=12, le=32)]
    validation: SplitShare
    test: SplitShare


class Voxels(Strict):
    """Labelled volumes in one `.npz` file, laid out as MedMNIST's 3D sets (Yang et al. 2023).

    The file holds `train_images`, `train_labels`, `val_images`, `val_labels`, `test_images` and
    `test_labels`; its splits are kept.

    Attributes:
        mirror: Folder of the file below `CHAPTERFLOW_MIRROR`; null for a file that no mirror
            holds, which comes from `upstream` always.
        upstream: Base addresses (`https://`, `file://` or a path), tried in order.
        file: The `.npz` file.
        classes: Names of the classes; the labels number them from 0.
    """

    kind: Literal["voxels"]
    mirror: str | None = None
    upstream: Annotated[list[str], Field(min_length=1)]
    file: RemoteFile
    classes: Annotated[list[str], Field(min_length=2, max_length=256)]
    title: str = "Volumes from an .npz file"
    licence: str = "unknown"
