"""What an explanation returns, and the folder that keeps it: pictures and `explain.json`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from chapterflow.types import Strict

#: The file that lists pictures with captions, metrics and details.
EXPLANATION = "explain.json"


class Picture(Strict):
    """One picture of an explanation.

    Attributes:
        key: Sort of the picture: `walk`, `feature_maps`, `kernels`, `attributions`, `reactions` or
            `nodes`.
        step: For `feature_maps` the number of the layer, from 0 at the input; 0 for the others.
        path: The PNG.
        caption: A sentence on what it shows.
    """

    key: str
    step: int
    path: Path
    caption: str


class Explanation(Strict):
    """Pictures of what a model looks at, and measures that say whether to believe them.

    Attributes:
        metrics: `explain/<method>/<measure>`, all finite.
        pictures: In reading order.
        details: What the pictures show: probes with outputs and scores, layers with channels.
        refusal: Why the model is not explained; None if it is.
    """

    metrics: dict[str, float] = Field(default_factory=dict)
    pictures: list[Picture] = Field(default_factory=list)
    details: dict[str, Any] = Field(default_factory=dict)
    refusal: str | None = None

    def save(self, folder: Path, **context: Any) -> dict[str, Any]:
        """Write `explain.json`, and return its content.

        Args:
            folder: The folder of the pictures.
            context: Further keys of the document.
        """
        document: dict[str, Any] = {
            **context,
            **({"refused": self.refusal} if self.refusal else {}),
            "metrics": self.metrics,
            "pictures": [
                {
                    "key": picture.key,
                    "step": picture.step,
                    "file": picture.path.name,
                    "caption": picture.caption,
                }
                for picture in self.pictures
            ],
            "details": self.details,
        }
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(document, indent=2, allow_nan=False)
        (folder / EXPLANATION).write_text(text + "\n", encoding="utf-8")
        return document

    @classmethod
    def load(cls, folder: Path, image: Callable[[str, int], Path] | None = None) -> Self:
        """Return the explanation in a folder, with the pictures that are there.

        A document from elsewhere could name any file, so only pictures in the folder itself, and
        those that `image` names, are taken.

        Args:
            folder: The folder.
            image: Returns the path of a picture that is not in the folder, by its key and step.
        """
        document = json.loads((folder / EXPLANATION).read_text(encoding="utf-8"))

        def path_of(entry: dict[str, Any]) -> Path:
            path = folder / Path(entry["file"]).name
            return image(entry["key"], entry["step"]) if image and not path.is_file() else path

        return cls(
            metrics=document["metrics"],
            pictures=[
                Picture(key=entry["key"], step=entry["step"], path=path, caption=entry["caption"])
                for entry in document["pictures"]
                if (path := path_of(entry)).is_file()
            ],
            details=document["details"],
            refusal=document.get("refused"),
        )
