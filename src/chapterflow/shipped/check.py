"""Check whether a model answers its own example as it did when it was logged.

python check.py FOLDER ...

Prints one JSON document for each folder of an MLflow model. The installed package cannot be
imported, so only the files that travel with the models are used.
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
    """Finds this package only in the folders of models, even if it is installed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the package in a model's folder; refuse any other."""
        if fullname != PACKAGE:
            return None
        shipped = [folder for folder in sys.path if Path(folder).name == "layers"]
        spec = PathFinder.find_spec(fullname, shipped)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return spec


def check(folder: str) -> dict[str, Any]:
    """Return how the answers differ from those logged with the model.

    Returns:
        `examples` (their number), `largest_difference` (of a probability or a value of a curve) and
        `same_classes`.
    """
    import mlflow.pyfunc

    logged = json.loads((Path(folder) / "example_answers.json").read_text(encoding="utf-8"))
    model = mlflow.pyfunc.load_model(folder, suppress_warnings=True)
    answers = model.predict(model.input_example).to_dict("records")
    if len(answers) != len(logged):
        raise ValueError(f"There must be {len(logged)} answers. Received: {len(answers)}")
    numbers = "probabilities" if "probabilities" in logged[0] else "curve"
    return {
        "examples": len(logged),
        "largest_difference": max(
            _difference(now, then)
            for answer, earlier in zip(answers, logged, strict=True)
            for now, then in zip(answer[numbers], earlier[numbers], strict=True)
        ),
        "same_classes": all(
            answer.get("label") == earlier.get("label")
            for answer, earlier in zip(answers, logged, strict=True)
        ),
    }


def _difference(now: float, then: float) -> float:
    """Return the distance of two numbers; infinity for NaN, which `max` would ignore."""
    distance = abs(now - then)
    return distance if math.isfinite(distance) else math.inf


if __name__ == "__main__":
    sys.meta_path.insert(0, OnlyShipped())
    for given in sys.argv[1:]:
        sys.stdout.write(json.dumps(check(given)) + "\n")
        sys.stdout.flush()
