"""Does a model answer its own example elsewhere as it did when it was logged?

python check.py FOLDER ...

Prints one JSON document for each folder of an MLflow model. This package is kept from being
imported, so that only what travels with the models is at work.
"""

from __future__ import annotations

import importlib.abc
import json
import math
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = "chapterflow"


class OnlyShipped(importlib.abc.MetaPathFinder):
    """Finds this package in the folders of models alone, wherever else it may be installed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the shipped package; refuse every other one."""
        if fullname != PACKAGE:
            return None
        shipped = [folder for folder in sys.path if Path(folder).name == "layers"]
        found = PathFinder.find_spec(fullname, shipped)
        if found is None:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return found


def check(folder: str) -> dict[str, Any]:
    """Return how the answers differ from those that were kept with the model.

    Returns:
        `examples` (how many), `largest_difference` (of a probability or of a curve's value) and
        `same_classes`.
    """
    import mlflow.pyfunc

    kept = json.loads((Path(folder) / "example_answers.json").read_text(encoding="utf-8"))
    model = mlflow.pyfunc.load_model(folder, suppress_warnings=True)
    answers = model.predict(model.input_example).to_dict("records")
    if len(answers) != len(kept):
        raise ValueError(f"{len(kept)} answers were expected. Received: {len(answers)}")
    numbers = "probabilities" if "probabilities" in kept[0] else "curve"
    return {
        "examples": len(kept),
        "largest_difference": max(
            _difference(now, then)
            for answer, earlier in zip(answers, kept, strict=True)
            for now, then in zip(answer[numbers], earlier[numbers], strict=True)
        ),
        "same_classes": all(
            answer.get("label") == earlier.get("label")
            for answer, earlier in zip(answers, kept, strict=True)
        ),
    }


def _difference(now: float, then: float) -> float:
    """Return how far two numbers are apart; NaN, which `max` would pass over, is infinitely far."""
    found = abs(now - then)
    return found if math.isfinite(found) else math.inf


if __name__ == "__main__":
    sys.meta_path.insert(0, OnlyShipped())
    for given in sys.argv[1:]:
        sys.stdout.write(json.dumps(check(given)) + "\n")
        sys.stdout.flush()
