"""What stands behind a model is printed whole, however narrow the terminal."""

import io

from rich.console import Console

from chapterflow.checks import Check
from chapterflow.cli.lineage import print_lineage
from chapterflow.lineage.why import Lineage


def test_long_links_go_on_below() -> None:
    result = " ".join(f"word{number}" for number in range(60))
    gates = Check(name="gates", state="passed", observed=result)
    root = Check(name="version", state="passed", observed="cnn/1", checks=[gates])
    shown = Lineage(asked="cnn", version="cnn/1", run_id="r", note=None, root=root)
    console = Console(file=io.StringIO(), width=50)
    print_lineage(console, shown)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert [word for line in lines for word in line.split() if word.startswith("word")] == (
        result.split()
    )
    assert max(map(len, lines)) <= 50
