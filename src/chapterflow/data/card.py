"""The dataset card, and the canonical arrays that it describes.

`data/<name>/` holds `dataset.json` (the card), `images.npy`, `labels.npy` and `split.npy`. Nothing
in it depends on the machine or the day, so the same source gives the same bytes everywhere.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from chapterflow.errors import DataError
from chapterflow.models.parts.base import InputSpec, Strict

Split = Literal["train", "validation", "test"]
#: Position in this tuple is the code in `split.npy`.
SPLITS: tuple[Split, ...] = get_args(Split)

CARD = "dataset.json"


class FileRecord(Strict):
    """Size and content hash of one file of a dataset."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: str


class DatasetCard(Strict):
    """What a dataset is, where it comes from, and the hashes of its bytes.

    Attributes:
        kind: Canonical form: `images` is uint8 `(n, height, width, channels)`.
        shape: Shape of one example.
        value_max: Largest raw value that the source can hold (16 for 17 grey levels).
        counts: Examples by split.
        files: Every file of the dataset but the card.
        test_digest: Hash over the test examples and labels, in order: two models with the same
            one were scored on the same test set.
        recipe: The parameters and the seed that made it (`chapterflow.data.sources.recipe`).
    """

    name: str
    kind: Literal["images"]
    title: str
    source: str
    licence: str
    shape: list[int]
    classes: list[str]
    value_max: int
    counts: dict[str, int]
    files: dict[str, FileRecord]
    test_digest: str
    recipe: dict[str, Any]

    def to_json(self) -> str:
        """Return the text of `dataset.json`: sorted keys, so equal cards are equal bytes."""
        return json.dumps(self.model_dump(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @property
    def digest(self) -> str:
        """Hash over the card, and through its file hashes over all the data."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def input_spec(self) -> InputSpec:
        """What a model for this dataset is built for."""
        return InputSpec(tuple(self.shape), len(self.classes), float(self.value_max))


@dataclass(frozen=True)
class Dataset:
    """A card and its arrays, memory-mapped and read-only.

    Attributes:
        images: `(n, height, width, channels)`, raw values.
        labels: `(n,)`, class numbers.
        split: `(n,)`, positions in `SPLITS`.
    """

    card: DatasetCard
    folder: Path
    images: NDArray[Any]
    labels: NDArray[Any]
    split: NDArray[Any]

    def indices(self, split: Split) -> NDArray[np.intp]:
        """Return the positions of a split's examples, ascending."""
        return np.flatnonzero(self.split == SPLITS.index(split))


def read_card(folder: Path) -> DatasetCard:
    """Return the card of `data/<name>/`.

    Raises:
        DataError: If there is none or it cannot be read.
    """
    path = folder / CARD
    try:
        return DatasetCard.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"No dataset at {folder}. `chapterflow data fetch` brings the data of a profile."
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path} is not a dataset card: {where}: {first['msg']}") from None


def open_dataset(folder: Path) -> Dataset:
    """Open the dataset in `folder`: what training, validation and evaluation all read.

    Raises:
        DataError: If the card or an array is missing, unreadable, or they disagree on the count.
    """
    card = read_card(folder)
    arrays = {}
    for name in ("images", "labels", "split"):
        path = folder / f"{name}.npy"
        try:
            arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"{path} cannot be read ({error}). Delete {folder} and run "
                "`chapterflow data fetch` to build it again."
            ) from None
    counts = {name: len(array) for name, array in arrays.items()}
    if len({*counts.values(), sum(card.counts.values())}) != 1:
        raise DataError(
            f"{folder}: the arrays must be as long as the card's counts "
            f"({sum(card.counts.values())}). Received: {counts}"
        )
    return Dataset(card, folder, **arrays)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
