"""Kinds of sources of data, as `params.yaml` describes them."""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from chapterflow.models.parts.base import PositiveInt, Strict
from chapterflow.settings.datasets_curves import CsvSeries, Curves
from chapterflow.settings.datasets_graphs import Karate, Planetoid, RandomGraphs, Tu
from chapterflow.settings.datasets_photos import ImageFolder
from chapterflow.settings.datasets_volumes import Solids, Voxels
from chapterflow.settings.types import RemoteFile, Seed, SplitShare

Digit = Annotated[int, Field(ge=0, le=9)]


class SklearnDigits(Strict):
    """The 1,797 handwritten 8x8 digits that ship inside scikit-learn.

    Attributes:
        validation: Share of the examples for early stopping.
        test: Share of the examples held out for evaluation; null with `train_per_class`.
        train_per_class: Examples of each class to train on; all that are then in no split are held
            out for evaluation.
        classes: Digits that are in the dataset, ascending; null for all ten.
        seed: Seed of the splits.
    """

    kind: Literal["sklearn-digits"]
    seed: Seed
    validation: SplitShare
    test: SplitShare | None = None
    train_per_class: PositiveInt | None = None
    classes: Annotated[list[Digit], Field(min_length=2)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.test is None) == (self.train_per_class is None):
            raise ValueError("give one of test and train_per_class")
        if self.classes is not None and self.classes != sorted(set(self.classes)):
            raise ValueError("classes must be digits in ascending order, each once")
        return self


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
    SklearnDigits
    | Idx
    | ImageFolder
    | Curves
    | CsvSeries
    | Solids
    | Voxels
    | RandomGraphs
    | Tu
    | Karate
    | Planetoid,
    Field(discriminator="kind"),
]
#: Values of `kind`, one for each class of the union.
KINDS = frozenset(
    get_args(source.model_fields["kind"].annotation)[0]
    for source in get_args(get_args(DatasetParams)[0])
)
