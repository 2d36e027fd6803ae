"""The results as tables: for a terminal, and as markdown for MLflow and Prefect."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from chapterflow.evaluation.compare import Difference
from chapterflow.records import Outcome

Cells = list[str]


#: Heading and text of each column of the results.
COLUMNS: dict[str, Callable[[dict[str, float]], str]] = {
    "accuracy": lambda m: f"{m['test/accuracy']:.4f}",
    "95 % interval": lambda m: f"{m['test/accuracy_low']:.3f}-{m['test/accuracy_high']:.3f}",
    "log-loss": lambda m: f"{m['test/log_loss']:.3f}",
    "train s": lambda m: f"{m['train/seconds']:.1f}",
    "params": lambda m: f"{m['cost/parameters']:,.0f}",
    "ms/image": lambda m: f"{m['cost/latency_ms_median']:.2f}",
}
HEADINGS = ["model", "dataset", "status", *COLUMNS, "run"]

#: A narrower terminal gets fewer columns instead of unreadable ones.
WIDE = 105
NARROW = ["model", "status", "accuracy", "95 % interval", "train s"]

DIFFERENCE_HEADINGS = [
    "A", "B", "accuracy B-A", "95 % interval", "only A / B right", "McNemar p (Holm)",
    "time B/A", "verdict",
]  # fmt: skip

DIFFERENCES_WIDE = 124
DIFFERENCES_NARROW = ("A", "B", "95 % interval", "verdict")


def results_row(outcome: Outcome) -> Cells:
    """Return one model's cells under `HEADINGS`."""
    if outcome.status == "failed":
        cells = [""] * len(COLUMNS)
    else:
        cells = [text(outcome.metrics) for text in COLUMNS.values()]
    run = (outcome.run_id or "")[:8]
    return [outcome.model, outcome.dataset, outcome.status, *cells, run]


def difference_row(pair: Difference) -> Cells:
    """Return one pair's cells under `DIFFERENCE_HEADINGS`."""
    verdict = {
        "a better": f"{pair.a} is better",
        "b better": f"{pair.b} is better",
    }.get(pair.verdict, pair.verdict)
    return [
        pair.a,
        pair.b,
        f"{pair.accuracy_difference:+.4f}",
        f"{pair.low:+.3f} to {pair.high:+.3f}",
        f"{pair.only_a} / {pair.only_b}",
        f"{pair.p_value:.3g} ({pair.p_adjusted:.3g})",
        f"{pair.training_time_ratio:.2f}",
        verdict,
    ]


def markdown(headings: Sequence[str], rows: Sequence[Cells]) -> str:
    """Return a markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def failures(outcomes: Sequence[Outcome]) -> list[tuple[str, str]]:
    """Return each error once, with the names of the models that met it."""
    return [
        (", ".join(o.model for o in outcomes if o.error == error), error)
        for error in dict.fromkeys(o.error for o in outcomes if o.error)
    ]


def results_markdown(outcomes: Sequence[Outcome]) -> str:
    """Return the table of results, with the errors of failed models below it."""
    errors = "".join(
        f"\n**{names}** failed:\n\n````\n{error}\n````\n" for names, error in failures(outcomes)
    )
    return markdown(HEADINGS, [results_row(outcome) for outcome in outcomes]) + errors


def differences_markdown(differences: Sequence[Difference]) -> str:
    """Return the table of differences."""
    return markdown(DIFFERENCE_HEADINGS, [difference_row(pair) for pair in differences])


def print_results(
    console: Console, outcomes: Sequence[Outcome], *, show_status: bool = True
) -> None:
    """Print the table of results, then the errors."""
    colours = {"trained": "green", "reused": "cyan", "failed": "red"}
    table = Table(title="Results on the test split")
    headings = HEADINGS if console.width >= WIDE else NARROW
    headings = [name for name in headings if show_status or name != "status"]
    for heading in headings:
        table.add_column(heading, justify="right" if heading in COLUMNS else "left")
    for outcome in outcomes:
        cells = dict(zip(HEADINGS, results_row(outcome), strict=True))
        table.add_row(
            *(
                Text(cells[name], style=colours[outcome.status] if name == "status" else "")
                for name in headings
            )
        )
    console.print(table)
    for names, error in failures(outcomes):
        console.print(Text(f"{names} failed: {error}", style="red"), soft_wrap=True)


def print_differences(console: Console, differences: Sequence[Difference]) -> None:
    """Print one table of differences for each dataset."""
    for dataset in dict.fromkeys(pair.dataset for pair in differences):
        pairs = [pair for pair in differences if pair.dataset == dataset]
        table = Table(
            title=f"Is the difference real? {pairs[0].examples:,} test examples of {dataset}",
        )
        shown = [
            name
            for name in DIFFERENCE_HEADINGS
            if console.width >= DIFFERENCES_WIDE or name in DIFFERENCES_NARROW
        ]
        for name in shown:
            table.add_column(name, justify="left" if name in ("A", "B", "verdict") else "right")
        for pair in pairs:
            cells = dict(zip(DIFFERENCE_HEADINGS, difference_row(pair), strict=True))
            table.add_row(*(cells[name] for name in shown))
        console.print(table)
