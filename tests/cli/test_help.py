"""Help is read in terminals of eighty columns."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from chapterflow.cli import app
from chapterflow.data.source import own_sources


@pytest.mark.parametrize("words", [[], ["data"]])
def test_no_summary_of_a_command_is_cut(words: list[str]) -> None:
    result = CliRunner().invoke(app, [*words, "--help"], terminal_width=80)
    assert result.exit_code == 0
    lines = result.output.split("Commands:\n")[1].splitlines()
    assert len(lines) >= 5
    assert not [line for line in lines if line.endswith("...") or len(line) > 80]


def test_the_help_of_data_add_lists_every_source_that_can_be_added(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def shown() -> str:
        return " ".join(CliRunner().invoke(app, ["data", "add", "--help"]).output.split())

    *names, last = own_sources()
    assert f"format of PATH: {', '.join(names)} or {last}." in shown()
    monkeypatch.setattr("chapterflow.data.source.own_sources", lambda: ["peaks", "spectra"])
    assert "format of PATH: peaks or spectra." in shown()


def test_help_imports_no_library_but_those_of_the_terminal() -> None:
    code = (
        "import sys; import chapterflow.cli;"
        "print({'pydantic', 'numpy', 'yaml', 'mlflow', 'prefect', 'dvc'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")
