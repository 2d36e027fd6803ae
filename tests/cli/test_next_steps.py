"""The last lines of `chapterflow run`: what to do next with the models that finished."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from chapterflow.cli.run import print_next_steps
from chapterflow.config.load import load_settings
from chapterflow.environment import Project

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"
CNN = {"model": "cnn", "dataset": "digits", "status": "trained"}
OWN = {"model": "cnn", "dataset": "mine", "status": "trained", "model_version": "3"}
DNN = {"model": "dnn", "dataset": "digits", "status": "reused"}
FAILED = {"model": "vgg", "dataset": "digits", "status": "failed"}


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ([CNN, DNN], "Next: `chapterflow compare --set seed=7` tests"),
        ([CNN], "Next: `chapterflow explain cnn digits` shows"),
        ([DNN, FAILED], "Next: `chapterflow explain dnn digits` shows"),
        ([FAILED], "1 failed."),
        ([OWN], "Next: `chapterflow explain cnn/3 mine` shows"),
    ],
)
def test_one_finished_model_is_explained_and_several_are_compared(
    models: list[dict[str, Any]], expected: str
) -> None:
    console = Console(file=io.StringIO(), width=200)
    print_next_steps(
        console, models, load_settings(PARAMS), ["seed=7"], project=Project(PARAMS.parent)
    )
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert text.splitlines()[-1].startswith(expected)
    assert ("cnn@challenger-mine" in text) == (OWN in models)
