"""Types that the settings share."""

from typing import Annotated

from pydantic import Field

from chapterflow.models.parts.base import PositiveInt, Strict

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9-]*$")]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
#: Share of examples in a split that must not be empty.
SplitShare = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]


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
