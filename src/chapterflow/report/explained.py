"""An explanation in the terminal: what the model says, and whether its maps are to be believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_explained(console: Console, document: Mapping[str, Any]) -> None:
    """Print what `explain.json` of one input or dataset says.

    Args:
        console: Where.
        document: As `write_explanation` returns it, with `model`, `input` and `notes`.
    """
    notes = f" ({', '.join(document['notes'])})" if document["notes"] else ""
    console.print(Text(f"{document['model']}: {document['input']}{notes}"), soft_wrap=True)
    for row in document["details"].get("probes", []):
        console.print(Text("  " + _answer(row)), soft_wrap=True)
    methods = _methods(document["metrics"])
    if not methods:
        return
    table = Table(
        title="Are the maps to be believed?",
        caption="Area under the answer while places are deleted, the most important first: lower "
        "is better, and inserted: higher is better. docs/explain.md says more.",
    )
    table.add_column("method")
    for heading in ("deletion", "random order", "insertion"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for method, one in methods.items():
        beats = bool(one["beats_random"])
        table.add_row(
            method,
            *(f"{one[key]:.3f}" for key in ("deletion_auc", "random_deletion_auc")),
            f"{one['insertion_auc']:.3f}" if "insertion_auc" in one else "-",
            Text("better than random") if beats else Text("no better than random", "yellow"),
        )
    console.print(table)


def _answer(row: Mapping[str, Any]) -> str:
    if "value" in row:
        return f"sample {row['sample']}: value {row['value']:.4g}"
    given = f"{row['name']}: " if "name" in row else ""
    return f"{given}{row['predicted']}, confidence {row['confidence']:.3f}"


def _methods(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        parts = name.split("/")
        if len(parts) == 3:
            found.setdefault(parts[1], {})[parts[2]] = value
    return found
