"""Which datasets there are, what they are for, and whether they are on this machine."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from chapterflow.data.card import CARD, SPLITS, read_card, shape_text
from chapterflow.environment import Project
from chapterflow.settings import Settings


def inventory(project: Project, settings: Settings) -> list[dict[str, Any]]:
    """Return one record for each dataset of `params.yaml`."""
    found = []
    for name, params in settings.datasets.items():
        uses = [
            f"{role} ({profile})"
            for role, by_profile in settings.roles.items()
            for profile, dataset in by_profile.items()
            if dataset == name
        ]
        folder = project.data / name
        card = read_card(folder) if (folder / CARD).is_file() else None
        found.append(
            {
                "dataset": name,
                "kind": params.kind,
                "used_for": uses,
                "here": card is not None,
                "examples": card.counts if card else None,
                "shape": card.shape if card else None,
                "digest": card.digest if card else None,
                "licence": card.licence if card else None,
            }
        )
    return found


def print_inventory(console: Console, found: list[dict[str, Any]]) -> None:
    """Print the records as a table."""
    table = Table("dataset", "kind", "used for", "train / validation / test", "shape", "digest")
    for record in found:
        here = record["here"]
        table.add_row(
            record["dataset"],
            record["kind"],
            ", ".join(record["used_for"]),
            " / ".join(f"{record['examples'][split]:,}" for split in SPLITS)
            if here
            else "not here",
            shape_text(record["shape"]) if here else "",
            record["digest"][:12] if here else f"`chapterflow data fetch {record['dataset']}`",
        )
    console.print(table)
