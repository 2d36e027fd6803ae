"""Guides are true: their Python passes `make check`, and their table of faults is complete."""

import ast
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from benchmarks.__main__ import BENCHMARKS
from chapterflow.cli import app
from tests.conftest import REPOSITORY

GUIDES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"]
GUIDES += sorted((REPOSITORY / "docs").rglob("*.md"))


def examples() -> dict[str, str]:
    """Return the blocks of Python by a name for a module."""
    return {
        f"{guide.stem.lower().replace('-', '_')}_{number}": block
        for guide in GUIDES
        for number, block in enumerate(
            re.findall(
                r"^```python\n(.*?)^```$", guide.read_text("utf-8"), re.DOTALL | re.MULTILINE
            )
        )
    }


def test_the_guides_have_examples() -> None:
    assert {"contributing_0", "add_a_model_0", "add_a_model_1"} <= examples().keys()


@pytest.mark.parametrize("name", examples())
def test_an_example_is_linted_and_formatted(name: str) -> None:
    place = f"src/chapterflow/models/{name}.py"
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            ["ruff", *command, "--stdin-filename", place, "-"],
            input=examples()[name],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_examples_have_types(tmp_path: Path) -> None:
    for name, block in examples().items():
        (tmp_path / f"{name}.py").write_text(block, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def commands() -> list[str]:
    """Return the commands of chapterflow in the guides: lines of blocks, and in sentences."""
    found: dict[str, None] = {}
    for guide in GUIDES:
        text = guide.read_text("utf-8")
        for block in re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            lines = block.replace("\\\n", " ").splitlines()
            found |= dict.fromkeys(
                match[1]
                for line in lines
                if (match := re.match(r"\s*(?:\$ )?(chapterflow [a-z-].*)", line))
            )
        found |= dict.fromkeys(re.findall(r"`(chapterflow [a-z-][^`]*)`", text))
    return list(found)


@cache
def parser_of_all() -> Any:
    return typer.main.get_command(app)


def parse(line: str) -> None:
    """Parse a command without running it.

    Raises:
        KeyError: If there is no such command.
        typer.BadParameter: Or its base class, if an option does not exist or a value is impossible.
    """
    words = shlex.split(re.split(r"\s#|[|>;&]", line)[0])[1:]
    words = [word for word in words if word != "--debug"]
    parser = parser_of_all()
    while hasattr(parser, "commands"):
        parser = parser.commands[words.pop(0)]
    if words:  # A sentence may name a command without its arguments.
        parser.make_context("chapterflow", words)


@pytest.mark.parametrize("line", commands())
def test_a_command_exists_with_its_options(line: str) -> None:
    if "--help" not in line:
        parse(line)


@pytest.mark.parametrize(
    "line", ["chapterflow runs", "chapterflow run --modl cnn", "chapterflow data add --kind"]
)
def test_a_command_that_does_not_exist_is_noticed(line: str) -> None:
    with pytest.raises((KeyError, *typer.BadParameter.__bases__)):
        parse(line)


def test_targets_and_benchmarks_exist() -> None:
    text = "\n".join(guide.read_text("utf-8") for guide in GUIDES)
    # The second one is that of a project of one's own.
    files = [REPOSITORY / "Makefile", REPOSITORY / "src/chapterflow/templates/project/Makefile"]
    rules = "\n".join(file.read_text("utf-8") for file in files)
    targets = set(re.findall(r"^([a-z-]+):", rules, re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    named = set(re.findall(r"python -m benchmarks[ .]([a-z_]+)", text))
    assert named <= BENCHMARKS.keys() | {"limits"}


@pytest.mark.slow
def test_the_site_has_every_page_and_no_broken_link(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs"]
    command += ["-d", str(tmp_path / "read"), ".", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(tmp_path / "site") for path in (tmp_path / "site").rglob("*.html")}
    assert {guide.relative_to(REPOSITORY).with_suffix(".html") for guide in GUIDES} <= pages
    # A page from disk may load scripts, but no JSON; the index of the search is a script.
    assert "readout" in (tmp_path / "site" / "searchindex.js").read_text("utf-8")


KOREAN = {
    REPOSITORY / "README.ko.md": REPOSITORY / "README.md",
    **{
        page: page.parents[1] / page.name
        for page in sorted((REPOSITORY / "docs" / "ko").glob("*.md"))
    },
}


@pytest.mark.parametrize(("page", "english"), KOREAN.items())
def test_a_korean_page_has_what_its_english_page_has(page: Path, english: Path) -> None:
    for one, language, other in ((page, "English", english), (english, "한국어", page)):
        link = os.path.relpath(other, one.parent)
        assert f"[{language}]({link})" in one.read_text("utf-8")
    assert skeleton(page) == skeleton(english)


def skeleton(page: Path) -> list[str]:
    """Return what is the same in every language: levels of headings, code, rows, pictures."""
    parts, code = [], False
    for line in page.read_text("utf-8").splitlines():
        if line.startswith("```"):
            code = not code
        elif code:
            parts.append(re.split(r"\s+# ", line)[0])
        elif match := re.match(r"#+ |\| *(?=\S)|- |\d\. |!\[", line):
            parts.append(match[0].strip())
    return parts


def cells(text: str, edge: str) -> list[list[str]]:
    """Return the cells of the rows of a table that begin with an edge."""
    lines = [line for line in text.splitlines() if line.startswith(edge)]
    return [[cell.strip() for cell in line.strip(edge).split(edge)] for line in lines]


@pytest.mark.parametrize("guide", ["README.md", "README.ko.md"])
def test_the_results_in_a_guide_are_the_recorded_ones(guide: str) -> None:
    recorded = cells((REPOSITORY / "results" / "comparison.md").read_text("utf-8"), "|")
    # Guides leave out the status and the id of the run.
    scores = [[*row[:2], *row[3:7]] for row in recorded if len(row) == 8]
    shown = [
        row for row in cells((REPOSITORY / guide).read_text("utf-8"), "│") if len(row) in (6, 7)
    ]
    assert len(shown) == 14
    assert [row for row in shown if row not in scores + recorded] == []


def marked_faults() -> list[str]:
    """Return a row of docs/reliability.md for each fault that tests inject, in their order."""
    rows = {}
    for file in sorted((REPOSITORY / "tests").rglob("test_*.py")):
        for function in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(function, ast.FunctionDef):
                continue
            for mark in function.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
                    fault, promise = map(ast.literal_eval, mark.args)
                    place = f"{file.relative_to(REPOSITORY / 'tests')}::{function.name}"
                    rows[place] = f"| {fault} | {promise} | `{place}` |"
    return list(rows.values())


def test_every_injected_fault_is_documented() -> None:
    text = (REPOSITORY / "docs" / "reliability.md").read_text("utf-8")
    actual = [line for line in text.splitlines() if line.endswith("` |")]
    assert actual == marked_faults()
