"""What a source of data is and gives: a dataset in canonical form, before it is written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from chapterflow import plugins
from chapterflow.errors import ConfigError
from chapterflow.kinds.dataset import Kind, get_kind
from chapterflow.types import RemoteFile, Strict

#: Brings a file of a source onto this machine and returns where it is.
Fetch = Callable[[RemoteFile], Path]
PACKAGE = "chapterflow.data.sources"


@dataclass(frozen=True)
class SourceData:
    """A dataset in canonical form, before it is written.

    Attributes:
        arrays: Array by name, each written as `<name>.npy`; `split` is among them.
        shape: Shape of one example, without the batch axis; None where it varies.
        classes: Names of the classes; empty where the target is not a class.
        value_max: Largest raw value that the source can hold.
        facts: Further facts for the card, as JSON.
        files: Further files to copy, by their path in the dataset's folder.
    """

    arrays: Mapping[str, NDArray[Any]]
    shape: tuple[int | None, ...]
    classes: list[str]
    value_max: float
    title: str
    source: str
    licence: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)


def _silent(message: str) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class UserData:
    """A user's own file or folder, and what `chapterflow data add` says about it.

    Attributes:
        path: File or folder, absolute.
        seed: Seed of drawn splits.
        validation: Share for early stopping; None takes the default.
        test: Share held out for evaluation; None takes the default.
        title: Title on the card; None takes the default.
        say: Receives what was chosen for the user, a line at a time.
        names: Encoding of the names in a zip archive that does not declare them UTF-8.
        directed: Whether edges of graphs have a direction.
    """

    path: Path
    seed: int
    validation: float | None = None
    test: float | None = None
    title: str | None = None
    say: Callable[[str], None] = _silent
    names: str | None = None
    directed: bool = False

    def file(self, suffix: str) -> dict[str, Any]:
        """Return the keys `upstream` and `file` for a file.

        Raises:
            ConfigError: If the path does not name a file with this suffix.
        """
        if not self.path.is_file() or self.path.suffix.lower() != suffix:
            raise ConfigError(f"PATH must name a {suffix} file. Received: {self.path}")
        return {"upstream": [str(self.path.parent)], "file": {"name": self.path.name}}

    def encoding(self) -> dict[str, str]:
        """Return the key `names` where it is set."""
        return {"names": self.names} if self.names else {}

    def need_folder(self, content: str) -> None:
        """Refuse a path that is no folder.

        Raises:
            ConfigError: If it is none.
        """
        if not self.path.is_dir():
            raise ConfigError(f"PATH must name a folder with {content}. Received: {self.path}")

    def shares(self, *, test: bool = True) -> dict[str, float]:
        """Return the keys `validation` and, unless the test set is given, `test`."""
        shares = {"validation": 0.1 if self.validation is None else self.validation}
        return shares | ({"test": 0.2 if self.test is None else self.test} if test else {})

    def refuse_shares(self, source: str, why: str, *, validation: bool = True) -> None:
        """Refuse shares for data whose splits are given.

        Args:
            source: Source, as users name it.
            why: Where the splits come from.
            validation: Whether the validation split is given too.

        Raises:
            ConfigError: If a share is set.
        """
        given = [("--test", self.test), ("--validation", self.validation if validation else None)]
        for option, share in given:
            if share is not None:
                raise ConfigError(f"{option} is not for {source}: {why}. Received: {share:g}")

    def titled(self) -> dict[str, str]:
        """Return the key `title` where one is set."""
        return {"title": self.title} if self.title else {}


@dataclass(frozen=True)
class Source:
    """A source of data: a block of `params.yaml` -> arrays of a kind.

    Attributes:
        name: Value of `kind:` in a block of `datasets:`; also the name of the file.
        params: Class of the block, with `kind: Literal[name]`.
        gives: Name of the kind of data that it gives.
        read: Reads the data; it may fetch files.
        own: Returns the block for a user's own data; None where `data add` does not offer it.
        option: Name for `data add --kind`; the source's own name by default.
    """

    name: str
    params: type[Strict]
    gives: str
    read: Callable[[Any, Fetch], SourceData]
    own: Callable[[UserData], dict[str, Any]] | None = None
    option: str = ""

    @property
    def kind(self) -> Kind:
        """The kind of data that it gives."""
        return get_kind(self.gives)


def source_names() -> list[str]:
    """Return the names of all sources, sorted."""
    return list(plugins.modules(PACKAGE))


def get_source(name: str) -> Source:
    """Return the source called `name`.

    Raises:
        KeyError: If no file of that name exists.
        ConfigError: If the file does not register a `Source` of its own name as `SOURCE`.
    """
    return plugins.load(plugins.modules(PACKAGE)[name], "SOURCE", Source, name)


def own_sources() -> dict[str, Source]:
    """Return the sources that `data add` offers, by the names that users give them."""
    sources = [get_source(name) for name in source_names()]
    return {source.option or source.name: source for source in sources if source.own}
