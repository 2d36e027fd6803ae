"""What a source of data gives: a dataset in canonical form, before it is written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from chapterflow.models.base import Kind
from chapterflow.types import RemoteFile

#: Brings a file of a source onto this machine and returns where it is.
Fetch = Callable[[RemoteFile], Path]


@dataclass(frozen=True)
class SourceData:
    """A dataset in canonical form, before it is written.

    Attributes:
        kind: Canonical form.
        arrays: Array by name, each written as `<name>.npy`; `split` is among them.
        shape: Shape of one example, without the batch axis; None where it varies.
        classes: Names of the classes; empty where the target is not a class.
        value_max: Largest raw value that the source can hold.
        facts: What else the card should say of this kind of data, as JSON.
        files: Further files to copy, by their path in the dataset's folder.
    """

    kind: Kind
    arrays: Mapping[str, NDArray[Any]]
    shape: tuple[int | None, ...]
    classes: list[str]
    value_max: float
    title: str
    source: str
    licence: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
