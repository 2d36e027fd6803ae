"""A model that answers otherwise than it did is found out, also where it answers no number."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from chapterflow.shipped import check

KEPT = [{"class": 1, "label": "b", "probabilities": [0.25, 0.75]}]


@pytest.mark.parametrize(
    ("now", "largest"),
    [
        ([0.25, 0.75], 0.0),
        ([0.5, 0.75], 0.25),
        ([0.25, math.nan], math.inf),  # behind a number, where `max` would pass over it
        ([math.nan, 0.75], math.inf),
        ([math.inf, 0.75], math.inf),
    ],
)
def test_the_largest_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: list[float], largest: float
) -> None:
    import mlflow.pyfunc

    (tmp_path / "example_answers.json").write_text(json.dumps(KEPT))

    def load_model(*_: Any, **__: Any) -> Any:
        table = pd.DataFrame([KEPT[0] | {"probabilities": now}])
        return SimpleNamespace(input_example=None, predict=lambda _: table)

    monkeypatch.setattr(mlflow.pyfunc, "load_model", load_model)
    actual = check.check(str(tmp_path))
    assert (actual["examples"], actual["same_classes"]) == (1, True)
    assert actual["largest_difference"] == largest
