"""`chapterflow layers` as a user calls it."""

import json

import pytest

from chapterflow.environment import Project
from tests.conftest import invoke

pytestmark = pytest.mark.slow


def test_the_embedded_data_are_made_where_they_are_missing(project: Project) -> None:
    result = invoke(project.root, "layers", "cnn")
    assert result.returncode == 0, result.stderr
    assert (project.data / "digits" / "dataset.json").is_file()
    conv2 = next(line for line in result.stdout.splitlines() if "conv2" in line)
    assert [cell.strip() for cell in conv2.strip("│").split("│")][2:] == [
        "4 x 4 x 64", "3 x 3", "1 x 1", "same", "18,496", "590,848",
    ]  # fmt: skip
    assert "cnn for digits" in result.stdout

    result = invoke(project.root, "layers", "cnn", "--json", "--set", "models.cnn.dense=16")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["model"] == "cnn"
    assert document["dataset"] == "digits"
    assert document["parameters"] == 320 + 18_496 + 257 * 16 + 17 * 10
    assert document["parameters"] == sum(row["parameters"] for row in document["layers"])
    assert document["layers"][2] == {
        "name": "conv1",
        "type": "Conv2D",
        "output": [8, 8, 32],
        "kernel": [3, 3],
        "stride": [1, 1],
        "padding": "same",
        "parameters": 320,
        "flops": 8 * 8 * 32 * 19,
    }


def test_what_users_can_get_wrong(project: Project) -> None:
    result = invoke(project.root, "layers", "cnnn")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == "Unknown model: 'cnnn'. Did you mean 'cnn'?\n"

    result = invoke(project.root, "layers", "cnn", "--profile", "book")
    assert result.returncode == 2
    assert "'mnist', which is not on this machine" in result.stderr
    assert "`chapterflow data fetch mnist` builds it." in result.stderr
    assert "Traceback" not in result.stderr
    assert not (project.data / "mnist").exists()
