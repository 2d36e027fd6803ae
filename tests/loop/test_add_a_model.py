"""`docs/add-a-model.md`, followed to the letter in a fresh checkout; then with mistakes."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import requests

from tests.conftest import (
    HUNG,
    REPOSITORY,
    SEVERAL,
    Finished,
    begin,
    call,
    call_several,
)
from tests.loop import stores

GUIDE = (REPOSITORY / "docs" / "add-a-model.md").read_text(encoding="utf-8")
FILE = Path("src/chapterflow/models/resnet.py")
#: A layer of one's own, with a weight that an answer depends on.
LAYER = """\
import keras


@keras.saving.register_keras_serializable()
class Scale(keras.layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x):
        return x * self.scale


"""


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of a language, in the order of the guide."""
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


def write(root: Path, source: str, block: str) -> None:
    (root / FILE).write_text(source, encoding="utf-8")
    start = (root.parent / "params.yaml").read_text(encoding="utf-8")
    params = start.replace("\nmodels:\n", f"\nmodels:\n{block}")
    (root / "params.yaml").write_text(params, encoding="utf-8")


@pytest.fixture(scope="module")
def guided(finished: Finished) -> Path:
    """The finished checkout, where the guide's `chapterflow run` reuses `cnn`."""
    shutil.copy(finished.root / "params.yaml", finished.root.parent)
    write(finished.root, blocks("python")[0], blocks("yaml")[0])
    return finished.root


def test_the_file_is_short() -> None:
    assert len(blocks("python")[0].splitlines()) <= 30


@contextmanager
def answering(root: Path, line: str) -> Iterator[str]:
    """Run the guide's `serve`, on a free port, and give its address once it is ready."""
    process = begin(root, "sh", "-c", f"exec {line} --port 0")
    try:
        assert process.stderr is not None
        message = ""
        for part in process.stderr:
            message += part
            if actual := re.search(r"http://127\.0\.0\.1:[0-9]+", part):
                yield actual[0]
                break
        else:
            pytest.fail(f"never ready:\n{message}")
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=HUNG)


@pytest.mark.slow
def test_the_guide_ends_in_a_served_champion(guided: Path, prefect_api: dict[str, str]) -> None:
    *lines, serve = blocks("sh")[0].splitlines()
    message = {}
    for line in lines:
        result = call(guided, "sh", "-c", line, **prefect_api)
        assert result.returncode == 0, f"{line}\n{result.stdout}{result.stderr}"
        message[line] = result.stdout
    assert "resnet │ cnn" in message["chapterflow compare resnet cnn"]
    assert "resnet/1 is resnet@champion" in message["chapterflow promote resnet"]
    (run,) = [
        run for run in stores.model_runs(guided) if run["tags"]["mlflow.runName"][:6] == "resnet"
    ]
    (artifacts,) = (guided / "mlruns" / "artifacts").glob(f"*/{run['id']}/artifacts")
    assert {path.name for path in artifacts.iterdir()} >= {"validation", "explain", "promotion"}
    with answering(guided, serve) as address:
        blank = np.zeros((2, 8, 8, 1)).tolist()
        answer = requests.post(f"{address}/invocations", json={"inputs": blank}, timeout=HUNG)
    assert answer.status_code == 200, answer.text
    assert [set(one) for one in answer.json()["predictions"]] == [
        {"class", "label", "probabilities", "note"}  # blank pictures are unlike digits
    ] * 2


@pytest.mark.slow
def test_layers_of_ones_own_travel_with_the_model(
    guided: Path, prefect_api: dict[str, str]
) -> None:
    source = LAYER + blocks("python")[0].replace("layers.Flatten()", "layers.Flatten()(Scale()")
    source = source.replace("Add()([x, y])))", "Add()([x, y]))))").replace(
        ": int = 32", ": int = 4"
    )
    write(guided, source, blocks("yaml")[0].replace("12", "1"))
    # TensorFlow, imported by the file itself, is quiet; a fork would have imported it before.
    told = "import atexit, sys\natexit.register(lambda: print('tensorflow' in sys.modules))\n"
    refused = "run resnet --set models.resnet.filters=many"
    result = call(guided, sys.executable, "-c", told + SEVERAL, refused)
    assert (result.returncode, result.stdout) == (2, "True\n"), result.stdout + result.stderr
    assert "models.resnet.filters" in result.stderr
    assert "port.cc" not in result.stderr
    commands = ("run resnet", "promote resnet@challenger --dry-run --json")
    result = call_several(guided, *commands, **prefect_api)
    assert "resnet: trained: " in result.stdout, result.stdout + result.stderr
    assert result.returncode in (0, 4)  # 4: after an epoch, other gates need not pass
    document = json.loads(result.stdout[result.stdout.rindex("\n{\n") :])
    gates = {gate["name"]: gate for gate in document["gates"]}
    # It answers the same in a process that has no chapterflow.
    assert gates["reload"]["passed"], gates["reload"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("keras.Input(", "keras.Input", "(resnet.py, line 19)"),
        (
            "from chapterflow",
            "import nothing_of_this_name\nfrom chapterflow",
            "ModuleNotFoundError: No module named 'nothing_of_this_name' (resnet.py, line 5)",
        ),
        (
            'ChapterModel("resnet"',
            'ChapterModel("resnit"',
            "must end with MODEL = ChapterModel('resnet', ...). Received: 'resnit'",
        ),
    ],
)
def test_a_broken_file_is_reported_with_its_place(
    guided: Path, old: str, new: str, message: str
) -> None:
    write(guided, blocks("python")[0].replace(old, new), blocks("yaml")[0])
    # What is in the registry can be rolled back and served all the same.
    result = call_several(guided, "rollback vgg", "serve vgg", "why vgg", "run resnet")
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("No version of vgg is registered yet") == 3, result.stderr
