"""Types that records share: strict ones, and the values that settings are made of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    """A frozen record that refuses unknown keys and silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
#: Standard deviations of noise.
NoiseLevels = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1, max_length=100)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9-]*$")]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
#: Share of examples in a split that must not be empty.
SplitShare = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]


def _known(encoding: str) -> str:
    try:
        b"".decode(encoding)
    except (LookupError, ValueError):
        raise ValueError("must be an encoding that Python knows, such as cp949") from None
    return encoding


#: Name of an encoding of text.
Encoding = Annotated[str, AfterValidator(_known)]


class RemoteFile(Strict):
    """One file of a source.

    Attributes:
        name: File name below the source's folder or addresses.
        sha256: Hash of the decompressed bytes (of a zip archive: of the archive itself); null
            accepts whatever arrives.
        bytes: Size after decompression; null caps it at 4 GiB.
    """

    name: str
    sha256: Sha256 | None = None
    bytes: PositiveInt | None = None


#: A bound of a validation suite: a number, or the lowest and highest one.
Bound = int | float | list[float]


class DatasetBlock(Strict):
    """A block of `datasets:`; the source that its key `kind` names adds the other keys.

    Attributes:
        accept: Bounds of the validation for this dataset, by their names below `validation:`;
            null takes the bounds of its kind of data.
    """

    accept: dict[str, Bound] | None = None


class FolderOrArchive(DatasetBlock):
    """A source that is a folder on this machine, or an archive of it that is fetched.

    Give `path`, or `file` with `mirror` or `upstream`.

    Attributes:
        path: A folder, or an archive of it, on this machine. Like an address, it is not part of the
            dataset's recipe: after its content has changed, `chapterflow data fetch --force`
            rebuilds it.
        mirror: Folder of the archive below `CHAPTERFLOW_MIRROR`; null for one that no mirror holds.
        upstream: Base addresses (`https://`, `file://` or a path), tried in order.
        file: A zip archive.
        max_bytes: Largest size of an archive's unpacked files; null: 4 GiB.
        max_members: Largest number of an archive's files and folders; null: 100,000.
        names: Encoding of names in an archive that does not declare them UTF-8: `cp949` for
            Korean Windows; null reads valid UTF-8 only.
    """

    path: str | None = None
    mirror: str | None = None
    upstream: list[str] = Field(default_factory=list)
    file: RemoteFile | None = None
    max_bytes: PositiveInt | None = None
    max_members: PositiveInt | None = None
    names: Encoding | None = None

    @property
    def unpacking(self) -> dict[str, Any]:
        """Arguments of `chapterflow.data.archive.extract_zip`."""
        return {key: getattr(self, key) for key in ("max_bytes", "max_members", "names")}

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.file is None):
            raise ValueError("give one of path and file")
        return self


@dataclass(frozen=True)
class InputSpec:
    """Description of the data that a model is built for.

    Attributes:
        shape: Shape of one example, without the batch axis: `(height, width, channels)` for
            images; None for an axis of varying length.
        classes: Number of classes; 0 if the target is not a class.
        value_max: Largest raw value (255 for 8-bit pixels); the model rescales by it.
        kind: Name of the kind of data (`chapterflow.kinds`).
        centre: Mean of each feature in the training data, if the features differ in scale.
        spread: Standard deviation of each feature, of the same length as `centre`.
        directed: Whether an edge of a graph may lack the edge in the opposite direction.
    """

    shape: tuple[int | None, ...]
    classes: int
    value_max: float
    kind: str = "images"
    centre: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()
    directed: bool = True


#: Reports what a step does right now: `tell("train", "epoch 3/25")`.
Tell = Callable[[str, str], None]


def silent(step: str, detail: str) -> None:
    """Report nothing."""
