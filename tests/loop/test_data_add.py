"""`chapterflow data add` as a user calls it, and what can then be done with the data."""

import json
import os
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.photos import photo_folder, picture

pytestmark = pytest.mark.slow


def test_a_folder_is_added_verified_and_listed(run: Run, checkout: Path, tmp_path: Path) -> None:
    folder = photo_folder(tmp_path / "pets")
    add = ("chapterflow", "data", "add", "pets", "--kind", "images")
    picture(1).point(lambda _: 9).save(folder / "cat" / "1.png")
    told = run(*add, str(folder))
    assert told.returncode == 3, told.stderr
    assert "not-blank" in told.stderr
    assert not (checkout / "datasets.yaml").exists()
    assert not (checkout / "data" / "pets").exists()

    picture(1).save(folder / "cat" / "1.png")
    # A relative path, from where the user is.
    told = run(*add, os.path.relpath(folder, checkout), "--title", "Pets of mine")
    assert told.returncode == 0, told.stderr
    assert "28 train, 4 validation, 8 test" in told.stdout
    assert run("chapterflow", "data", "verify").stdout.strip() == "pets: ok"
    listed = json.loads(run("chapterflow", "data", "list", "--json").stdout)["datasets"]
    (pets,) = [record for record in listed if record["dataset"] == "pets"]
    assert pets["here"]
    assert pets["examples"] == {"train": 28, "validation": 4, "test": 8}

    told = run(*add, str(folder))
    assert (told.returncode, "--force replaces it" in told.stderr) == (2, True)
    told = run("chapterflow", "run", "cnn", "--data", "pets")
    assert told.returncode == 2
    assert "The model 'cnn' takes images. Received: 'pets'" in told.stderr
    told = run("chapterflow", "run", "--data", "pets")
    assert (told.returncode, "needs the names of models" in told.stderr) == (2, True)


def test_own_idx_files_are_added_and_learnt(run: Run, checkout: Path, mirror: Path) -> None:
    told = run("chapterflow", "data", "add", "own", str(mirror / "mnist"), "--kind", "idx")
    assert told.returncode == 0, told.stderr
    assert "54,000 train, 6,000 validation, 10,000 test" in told.stdout
    told = run(
        *("chapterflow", "run", "dnn", "--data", "own", "--json"),
        *("--set", "models.dnn.epochs=1", "--set", "models.dnn.batch_size=512"),
    )
    assert told.returncode == 0, told.stderr
    (model,) = json.loads(told.stdout)["models"]
    assert (model["dataset"], model["status"]) == ("own", "trained")
    assert model["metrics"]["test/accuracy"] > 0.9
