"""Artifacts of a run that are missing or damaged are named, with what to do."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chapterflow.errors import StoreError
from chapterflow.tracking import artifacts
from chapterflow.tracking.artifacts import Artifacts

READERS: dict[str, Callable[[Artifacts], Any]] = {
    artifacts.FINGERPRINT: Artifacts.fingerprint,
    artifacts.CARD: Artifacts.card,
    artifacts.VERDICT: Artifacts.verdict,
    artifacts.TRAINING: Artifacts.training,
    artifacts.EVALUATION: Artifacts.evaluation,
    artifacts.PREDICTIONS: Artifacts.predictions,
    f"{artifacts.EXPLANATION}/explain.json": Artifacts.explanation,
}
DAMAGES = {
    "empty": b"",
    "cut off": b'{"epoch": [1, 2',
    "not text": b"\xff\x00garbage" * 20,
    "another document": b"[1, 2]",
    "cut off archive": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_artifact_is_named(name: str, tmp_path: Path, record_property: Any) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    for content in DAMAGES.values():
        path.write_bytes(content)
        with pytest.raises(StoreError, match="chapterflow run MODEL --force") as failure:
            READERS[name](Artifacts("a" * 32, tmp_path))
        assert f"The artifact {name.partition('/')[0]}" in str(failure.value)
        assert "\n" not in str(failure.value)


def test_predictions_cut_anywhere(tmp_path: Path) -> None:
    path = tmp_path / artifacts.PREDICTIONS
    np.savez_compressed(path, label=np.arange(50), probability=np.random.rand(50, 10))
    size = path.stat().st_size
    for length in range(0, size, 97):
        os.truncate(path, size - length)
        if length:
            with pytest.raises(StoreError, match="missing or damaged"):
                Artifacts("a" * 32, tmp_path).predictions()
        else:
            assert len(Artifacts("a" * 32, tmp_path).predictions()["label"]) == 50
