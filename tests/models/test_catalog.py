"""Every file in `models` is one chapter model, and says where it comes from."""

import ast
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import chapterflow.models
from chapterflow.errors import ConfigError
from chapterflow.models.base import ChapterModel, ModelParams
from chapterflow.models.catalog import get_model, model_names

MODELS = Path(chapterflow.models.__file__).parent


def test_the_files_are_the_models() -> None:
    files = {path.stem.replace("_", "-") for path in MODELS.glob("*.py")} - {
        "--init--",
        "base",
        "catalog",
    }
    assert set(model_names()) == files
    assert model_names() == sorted(model_names())
    assert {"dnn", "cnn", "lenet5"} <= files


@pytest.mark.parametrize("name", model_names())
def test_a_file_registers_the_model_of_its_name(name: str) -> None:
    entry = get_model(name)
    assert isinstance(entry, ChapterModel)
    assert entry.name == name
    assert issubclass(entry.params, ModelParams)
    assert entry.summary
    assert not entry.summary.endswith(".")


@pytest.mark.parametrize("name", [name for name in model_names() if get_model(name).section])
def test_the_header_tells_book_paper_expectation_and_command(name: str) -> None:
    text = ast.get_docstring(
        ast.parse((MODELS / f"{name.replace('-', '_')}.py").read_text("utf-8"))
    )
    assert text is not None
    summary, blank, *rest = text.splitlines()
    assert summary.endswith(".")
    assert blank == ""
    keys = [line.split(":")[0] for line in rest if re.match(r"[A-Z]\w+: \S", line)]
    assert keys == ["Book", "Paper", "Expected", "Command"]
    assert rest[0].startswith("Book: chapter 5, ")
    assert f'"{get_model(name).section}"' in rest[0]
    paper = text.partition("\nPaper: ")[2].partition("\nExpected: ")[0]
    assert re.search(r"\b(19|20)\d{2}\b", paper), "the paper's year"
    assert re.search(r"^Expected: .*\d", text, re.MULTILINE)
    assert rest[-1] == f"Command: chapterflow run {name}"


@pytest.mark.parametrize("name", ["vgg19", "", "layers", "CNN", "cnn.py", "../errors", "base"])
def test_an_unknown_name(name: str) -> None:
    with pytest.raises(KeyError) as caught:
        get_model(name)
    assert caught.value.args == (name,)


@pytest.fixture
def add_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Adds a file to the package for the time of a test."""
    monkeypatch.setattr(
        chapterflow.models, "__path__", [*chapterflow.models.__path__, str(tmp_path)]
    )
    added: list[str] = []

    def add(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        added.append(name)
        importlib.invalidate_caches()

    yield add
    for name in added:
        sys.modules.pop(f"chapterflow.models.{name}", None)
        if hasattr(chapterflow.models, name):
            delattr(chapterflow.models, name)


MODEL = """
from chapterflow.models.base import ChapterModel, ModelParams
MODEL = ChapterModel({name!r}, ModelParams, lambda params, data: None, "5.9", "nothing")
"""


def test_a_new_file_is_a_new_model(add_model: Callable[..., None]) -> None:
    add_model("novel", MODEL.format(name="novel"))
    assert "novel" in model_names()
    assert get_model("novel").summary == "nothing"


@pytest.mark.parametrize(
    ("text", "received"),
    [
        ("", "None"),
        ("MODEL = 'faulty'\n", "'faulty'"),
        (MODEL.format(name="other"), "'other'"),
        ("from chapterflow.models.cnn import MODEL\n", "'cnn'"),
    ],
)
def test_a_file_that_registers_no_model_of_its_name(
    add_model: Callable[..., None], text: str, received: str
) -> None:
    add_model("faulty", text)
    with pytest.raises(ConfigError) as caught:
        get_model("faulty")
    assert "chapterflow/models/faulty.py must end with MODEL = ChapterModel('faulty'" in str(
        caught.value
    )
    assert received in str(caught.value).partition("Received: ")[2]
