"""Help is read in terminals of eighty columns."""

import pytest
from typer.testing import CliRunner

from chapterflow.cli import app


@pytest.mark.parametrize("words", [[], ["data"]])
def test_no_summary_of_a_command_is_cut(words: list[str]) -> None:
    told = CliRunner().invoke(app, [*words, "--help"], terminal_width=80)
    assert told.exit_code == 0
    lines = told.output.split("Commands:\n")[1].splitlines()
    assert len(lines) >= 5
    assert not [line for line in lines if line.endswith("...") or len(line) > 80]
