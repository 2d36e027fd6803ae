"""The links from a model back to what made it: a tree, each link checked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from chapterflow.types import Strict

State = Literal["ok", "warning", "broken"]


class Link(Strict):
    """One link, and those that hang on it.

    Attributes:
        name: What it leads to (`source commit`).
        told: What is there, or what is not.
        state: `ok`, `warning` (it holds, but something about it is not as good as it should be), or
            `broken`.
    """

    name: str
    told: str
    state: State = "ok"
    below: list[Link] = Field(default_factory=list)

    def all(self) -> Iterator[Link]:
        """Yield this link and all below it."""
        yield self
        for link in self.below:
            yield from link.all()


class Lineage(Strict):
    """All that stands behind a version of a registered model.

    Attributes:
        asked: What was asked for.
        version: Name and number, `cnn/3`.
        note: Which version was taken, where the name alone did not say.
        root: The first link.
    """

    asked: str
    version: str
    run_id: str
    note: str | None
    root: Link

    @property
    def broken(self) -> list[str]:
        """Names of the broken links."""
        return [link.name for link in self.root.all() if link.state == "broken"]

    @property
    def warnings(self) -> list[str]:
        """Names of the links that hold with a reservation."""
        return [link.name for link in self.root.all() if link.state == "warning"]

    def document(self) -> dict[str, Any]:
        """Return all of it for `--json`."""
        return {
            **self.model_dump(mode="json", exclude={"root"}),
            "sound": not self.broken,
            "broken": self.broken,
            "warnings": self.warnings,
            "tree": self.root.model_dump(mode="json"),
        }
