"""Sources of photos: folders of image files, one for each class."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from chapterflow.models.parts.base import Strict
from chapterflow.settings.types import RemoteFile, Seed, SplitShare


class ImageFolder(Strict):
    """A folder for each class, within folders for train, validation and test where there are any.

    Give `path`, or `file` with `mirror` or `upstream`.

    Attributes:
        path: The folder, on this machine. Like an address it is no part of the dataset's recipe:
            after a change of its content, `chapterflow data fetch --force` builds anew.
        mirror: Folder of the archive below `CHAPTERFLOW_MIRROR`; null for one that no mirror holds.
        upstream: Base addresses (`https://`, `file://` or a path), tried in order.
        file: A zip archive of the folder.
        test_from: Which given split is held out for evaluation. `validation` is for data that come
            with two splits of which the second was meant for watching the training: it becomes the
            test set, and validation is drawn from train.
        validation: Share for early stopping, drawn where the folder has no validation split: of
            what is not given as another split.
        test: Share held out for evaluation, drawn where the folder has no test split, in the same
            way.
        seed: Seed of what is drawn.
    """

    kind: Literal["image-folder"]
    seed: Seed
    path: str | None = None
    mirror: str | None = None
    upstream: list[str] = Field(default_factory=list)
    file: RemoteFile | None = None
    test_from: Literal["test", "validation"] = "test"
    validation: SplitShare = 0.1
    test: SplitShare = 0.2
    title: Annotated[str, Field(min_length=1)] = "Photos"
    licence: str = "unknown"

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.file is None):
            raise ValueError("give one of path and file")
        return self
