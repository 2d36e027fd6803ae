"""Sources of photos: folders of image files, one for each class."""

from typing import Annotated, Literal

from pydantic import Field

from chapterflow.settings.types import FolderOrArchive, Seed, SplitShare


class ImageFolder(FolderOrArchive):
    """A folder for each class, within folders for train, validation and test where there are any.

    Attributes:
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
    test_from: Literal["test", "validation"] = "test"
    validation: SplitShare = 0.1
    test: SplitShare = 0.2
    title: Annotated[str, Field(min_length=1)] = "Photos"
    licence: str = "unknown"
