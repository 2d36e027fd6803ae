"""Kinds of sources of data, as `params.yaml` describes them."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from chapterflow.models.parts.base import PositiveInt, Strict
from chapterflow.settings.datasets_graphs import Karate, Planetoid, RandomGraphs, Tu
from chapterflow.settings.types import RemoteFile, Seed, SplitShare

__all__ = ["KINDS", "DatasetParams", "Idx", "IdxFiles", "RemoteFile", "SklearnDigits"]


class SklearnDigits(Strict):
    """The 1,797 handwritten 8x8 digits that ship inside scikit-learn.

    Attributes:
        validation: Share of all examples for early stopping.
        test: Share of all examples held out for evaluation.
        seed: Seed of the splits.
    """

    kind: Literal["sklearn-digits"]
    seed: Seed
    validation: SplitShare
    test: SplitShare


class IdxFiles(Strict):
    """The four files of an IDX dataset."""

    train_images: RemoteFile
    train_labels: RemoteFile
    test_images: RemoteFile
    test_labels: RemoteFile


class Idx(Strict):
    """Grey images in the IDX format of MNIST, gzip or raw; its test files stay the test set.

    Attributes:
        mirror: Folder of these files below `CHAPTERFLOW_MIRROR`; null for data that no mirror
            holds, which come from `upstream` always.
        upstream: Base addresses (`https://`, `file://` or a path), tried in order.
        validation: Share of the train files for early stopping.
        seed: Seed of the split into train and validation.
        classes: Number of classes; labels are 0 to classes - 1.
    """

    kind: Literal["idx"]
    seed: Seed
    mirror: str | None = None
    upstream: Annotated[list[str], Field(min_length=1)]
    files: IdxFiles
    validation: SplitShare
    classes: PositiveInt = 10
    title: str = "IDX images"
    licence: str = "unknown"


DatasetParams = Annotated[
    SklearnDigits | Idx | RandomGraphs | Tu | Karate | Planetoid, Field(discriminator="kind")
]
#: Values of `kind`, one for each class of the union.
KINDS = frozenset(
    get_args(source.model_fields["kind"].annotation)[0]
    for source in (SklearnDigits, Idx, RandomGraphs, Tu, Karate, Planetoid)
)
