"""Explanations on disk: pictures beside `explain.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chapterflow.explain.explanation import Explanation

#: Names picture files with captions, figures, and what the pictures show.
EXPLANATION = "explain.json"


def write_explanation(found: Explanation, folder: Path, **more: Any) -> dict[str, Any]:
    """Write `explain.json` beside the pictures, and return it.

    Args:
        found: Its pictures are in `folder`.
        folder: Where they are.
        more: What else the document says, by key.
    """
    document: dict[str, Any] = {
        **more,
        "metrics": found.metrics,
        "pictures": [
            {"key": one.key, "step": one.step, "file": one.path.name, "caption": one.caption}
            for one in found.pictures
        ],
        "details": found.details,
    }
    _write(folder, document)
    return document


def write_refusal(folder: Path, reason: str) -> None:
    """Write an `explain.json` that says why there is no explanation."""
    _write(folder, {"refused": reason, "metrics": {}, "pictures": [], "details": {}})


def read_explanation(folder: Path) -> dict[str, Any]:
    """Return what `explain.json` holds."""
    found: dict[str, Any] = json.loads((folder / EXPLANATION).read_text(encoding="utf-8"))
    return found


def _write(folder: Path, document: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=2, allow_nan=False)
    (folder / EXPLANATION).write_text(text + "\n", encoding="utf-8")
