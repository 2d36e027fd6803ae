"""Which datasets there are, and whether they are here."""

import io

from rich.console import Console

from chapterflow.cli.data import inventory, print_inventory
from chapterflow.config.load import load_settings
from chapterflow.data.build import ensure_dataset
from chapterflow.environment import Project


def test_datasets_here_and_elsewhere(project: Project) -> None:
    settings = load_settings(project.params)
    assert {record["dataset"]: record["here"] for record in inventory(project, settings)} == (
        dict.fromkeys(settings.datasets, False)
    )
    built, _ = ensure_dataset(
        project, "digits", settings.datasets["digits"], on_progress=lambda *news: None
    )
    actual = {record["dataset"]: record for record in inventory(project, settings)}
    assert actual["digits"] == {
        "dataset": "digits",
        "kind": "sklearn-digits",
        "used_for": ["digits (embedded)"],
        "here": True,
        "examples": built.counts,
        "shape": [8, 8, 1],
        "digest": built.digest,
        "licence": "CC BY 4.0",
    }
    assert actual["mnist"]["used_for"] == ["digits (book)"]
    assert actual["mnist"]["here"] is False
    assert actual["mnist"]["digest"] is None

    console = Console(record=True, file=io.StringIO(), width=160)
    print_inventory(console, inventory(project, settings))
    text = console.export_text()
    assert "1,168 / 180 / 449" in text
    assert "8 x 8 x 1" in text
    assert built.digest[:12] in text
    assert "`chapterflow data fetch mnist`" in text
