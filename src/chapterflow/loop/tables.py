"""The results as tables: for a terminal, and as markdown for MLflow and Prefect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from chapterflow.evaluation.significance import Difference
from chapterflow.kinds.dataset import TASKS, Task, task_of
from chapterflow.language import Language, message, speaking, tr, trn
from chapterflow.tracking.records import SCORES, Outcome, over_folds

Cells = list[str]
Column = Callable[[dict[str, float]], str]
#: Headings and texts of the columns of results: scores, then costs.
ACCURACY: dict[str, Column] = {
    message("accuracy"): lambda m: f"{(over_folds(m) or [m['test/accuracy']])[0]:.4f}"
}
CLASSES: dict[str, Column] = {
    message("95 % interval"): lambda m: (
        tr("+- {deviation} (folds)", deviation=f"{folds[1]:.3f}")
        if (folds := over_folds(m))
        else f"{m['test/accuracy_low']:.3f}-{m['test/accuracy_high']:.3f}"
    ),
    message("log-loss"): lambda m: f"{m['test/log_loss']:.3f}",
}
#: Shown if it differs from the accuracy of a model by this much: some classes are rare, and some
#: are known better than others.
BALANCED: dict[str, Column] = {
    message("balanced"): lambda m: (
        f"{m['test/balanced_accuracy']:.4f}" if "test/balanced_accuracy" in m else ""
    ),
}
IMBALANCE = 0.01
CURVES: dict[str, Column] = {
    message("RMSE"): lambda m: f"{m['test/rmse']:.4f}",
    message("95 % interval"): lambda m: f"{m['test/rmse_low']:.4f}-{m['test/rmse_high']:.4f}",
    message("SG filter"): lambda m: f"{m['baseline/savitzky_golay/rmse']:.4f}",
    message("mean filter"): lambda m: f"{m['baseline/moving_average/rmse']:.4f}",
}
COSTS: dict[str, Column] = {
    message("train s"): lambda m: f"{m['train/seconds']:.1f}",
    message("params"): lambda m: f"{m['cost/parameters']:,.0f}",
    message("ms/example"): lambda m: f"{m['cost/latency_ms_median']:.2f}",
}
COLOURS = {message("trained"): "green", message("reused"): "cyan", message("failed"): "red"}
BESIDE_TITLE = message("Beside the models: the same data and seed")
RESULTS_TITLE = message("Results on the test split")
CURVES_TITLE = message(
    "Curves: error on the test split, next to the best Savitzky-Golay (SG) filter"
)
#: Columns that a narrower terminal does without, times first.
DROPPED = ("ms/example", "train s", "log-loss", "mean filter", "params", "dataset", "run")
BESIDE_HEADINGS = message([
    "model", "variant", "score / model's", "train s", "params / model's", "MFLOPs / model's"
])  # fmt: skip
FOLDS_HEADINGS = message([
    "model", "variant", "inner validation split", "epoch chosen on test folds", "majority class"
])  # fmt: skip
FOLDS_TITLE = message("Cross-validation: mean +- deviation over the folds, under two protocols")
SEEDS_TITLE = message("Over seeds: mean and deviation of the score on the test split")
SEEDS_HEADINGS = message(
    ["model", "dataset", "seeds", "score", "mean", "deviation", "95 % interval"]
)
SEEDS_DROPPED = ("score", "dataset", "deviation")
SEED_DIFFERENCES_TITLE = message(
    "Over seeds: is the difference of the means real? (Welch's t-test)"
)
SEED_DIFFERENCES_HEADINGS = message(["A", "B", "B-A", "95 % interval", "p (Holm)", "better"])
DIFFERENCE_HEADINGS = message([
    "A", "B", "accuracy B-A", "95 % interval", "only A / B right", "McNemar p (Holm)",
    "time B/A", "verdict",
])  # fmt: skip
#: Columns that differ in each repetition.
TIMINGS = ("train s", "ms/example", "time B/A")
DIFFERENCES_DROPPED = ("time B/A", "only A / B right")
#: Where these do not fit, too.
SHORT_HEADINGS = message(["A", "B", "B-A", "95 % interval", "p (Holm)", "better"])
SHORT_DROPPED = ("B-A", "p (Holm)")
BESIDE_DROPPED = ("train s", "MFLOPs / model's", "params / model's")
FOLDS_DROPPED = ("majority class",)


def results_table(outcomes: Sequence[Outcome], task: Task) -> tuple[Cells, list[Cells]]:
    """Return headings and rows of the models of a task; failed ones count as classification."""
    columns = CURVES
    if task.classes:
        imbalanced = any(_is_imbalanced(outcome.metrics) for outcome in outcomes)
        columns = ACCURACY | (BALANCED if imbalanced else {}) | CLASSES
    columns = columns | COSTS
    rows = []
    for outcome in outcomes:
        if task_of(outcome.metrics) != task:
            continue
        failed = outcome.status == "failed"
        cells = ["" if failed else text(outcome.metrics) for text in columns.values()]
        run = (outcome.run_id or "")[:8]
        rows.append([outcome.model, outcome.dataset, outcome.status, *cells, run])
    headings = message(["model", "dataset", "status", "run"])
    return [*headings[:-1], *columns, headings[-1]], rows


def _is_imbalanced(metrics: dict[str, float]) -> bool:
    accuracy = metrics.get("test/accuracy", 0.0)
    return abs(metrics.get("test/balanced_accuracy", accuracy) - accuracy) >= IMBALANCE


def beside_table(outcomes: Sequence[Outcome]) -> list[Cells]:
    """Return the cells of each variant of a model, under `BESIDE_HEADINGS`."""
    rows = []
    for outcome in outcomes:
        metrics = outcome.metrics
        names = [key.split("/")[1] for key in metrics if key.startswith("beside/")]
        for name in dict.fromkeys(names):
            of = {k.rpartition("/")[2]: v for k, v in metrics.items() if f"beside/{name}/" in k}
            score = next(
                (f"{of[key]:.4f} / {metrics[f'test/{key}']:.4f}" for key in SCORES if key in of),
                tr("not trained"),
            )
            rows.append(
                [
                    outcome.model,
                    tr(name.replace("_", " ")),
                    score,
                    f"{of['train_seconds']:.1f}" if "train_seconds" in of else "",
                    f"{of['parameters']:,.0f} / {metrics['cost/parameters']:,.0f}",
                    f"{of['flops'] / 1e6:,.2f} / {metrics['cost/flops'] / 1e6:,.2f}",
                ]
            )
    return rows


def folds_table(outcomes: Sequence[Outcome]) -> list[Cells]:
    """Return the cells of each model and variant that was cross-validated, by protocol."""
    rows = []
    for outcome in outcomes:
        metrics = outcome.metrics
        names = [key.split("/")[1] for key in metrics if key.endswith("/cv_inner_accuracy_mean")]
        for name, pattern in [
            *([("", "cv/{}/accuracy_{}")] if "cv/inner/accuracy_mean" in metrics else []),
            *((name, f"beside/{name}/cv_{{}}_accuracy_{{}}") for name in names),
        ]:
            scores = [
                f"{metrics[pattern.format(protocol, 'mean')]:.3f} +- "
                f"{metrics[pattern.format(protocol, 'std')]:.3f}"
                for protocol in ("inner", "gin")
            ]
            majority = f"{metrics[pattern.format('majority', 'mean')]:.3f}"
            rows.append([outcome.model, tr(name.replace("_", " ")), *scores, majority])
    return rows


def folds_notes(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a sentence for each model whose mean over the folds is not above that of a variant."""
    notes = []
    for outcome in outcomes:
        metrics = outcome.metrics
        own = over_folds(metrics)
        names = [key.split("/")[1] for key in metrics if key.endswith("/cv_inner_accuracy_mean")]
        means = {name: (over_folds(metrics, name) or (0.0, 0.0))[0] for name in names}
        if own and (equals := [name for name in names if means[name] >= own[0]]):
            variants = ", ".join(
                f"{tr(name.replace('_', ' '))} ({means[name]:.3f})" for name in equals
            )
            notes.append(
                trn(
                    "{model} ({score} over the folds) is no better than its variant {variants}.",
                    "{model} ({score} over the folds) is no better than its variants {variants}.",
                    count=len(equals),
                    model=outcome.model,
                    score=f"{own[0]:.3f}",
                    variants=variants,
                )
            )
    return notes


def seeds_line(document: Mapping[str, Any]) -> tuple[str, str]:
    """Return status and summary of a model's scores over seeds (`seeds.summarise`)."""
    if document["errors"]:
        count = len(document["errors"])
        return "failed", f"{count} of {count + len(document['runs'])} seeds"
    return "done", (
        f"{document['score']} {document['mean']:.4f} +- {document['std']:.4f} over "
        f"{len(document['seeds'])} seeds"
    )


def seeds_rows(documents: Sequence[Mapping[str, Any]]) -> list[Cells]:
    """Return the cells of each model under `SEEDS_HEADINGS`."""
    return [
        [
            document["model"],
            document["dataset"],
            str(len(document["runs"])),
            document["score"],
            f"{document['mean']:.4f}",
            f"{document['std']:.4f}",
            f"{document['low']:.4f}-{document['high']:.4f}",
        ]
        for document in documents
        if document["values"]
    ]


def seed_difference_rows(pairs: Sequence[Mapping[str, Any]]) -> list[Cells]:
    """Return the cells of each pair under `SEED_DIFFERENCES_HEADINGS`."""
    return [
        [
            pair["a"],
            pair["b"],
            f"{pair['difference']:+.4f}",
            tr("{low} to {high}", low=f"{pair['low']:+.4f}", high=f"{pair['high']:+.4f}"),
            f"{pair['p_adjusted']:.3g}",
            {"a better": pair["a"], "b better": pair["b"]}.get(pair["verdict"], tr("none shown")),
        ]
        for pair in pairs
    ]


@speaking(Language.en)
def seeds_markdown(results: Mapping[str, Any]) -> str:
    """Return the tables of results over seeds; empty if there are none."""
    text = ""
    if rows := seeds_rows(results.get("seeds", ())):
        text += f"\n{SEEDS_TITLE}:\n\n{markdown(SEEDS_HEADINGS, rows)}"
    if rows := seed_difference_rows(results.get("seed_differences", ())):
        text += f"\n{SEED_DIFFERENCES_TITLE}:\n\n{markdown(SEED_DIFFERENCES_HEADINGS, rows)}"
    return text


def print_seeds(console: Console, results: Mapping[str, Any]) -> None:
    """Print the results over seeds, if there are any, then the errors."""
    for title, headings, rows, drop in (
        (SEEDS_TITLE, SEEDS_HEADINGS, seeds_rows(results.get("seeds", ())), SEEDS_DROPPED),
        (
            SEED_DIFFERENCES_TITLE,
            SEED_DIFFERENCES_HEADINGS,
            seed_difference_rows(results.get("seed_differences", ())),
            ("p (Holm)", "B-A"),
        ),
    ):
        if rows:
            draw = partial(
                _drawn, tr(title), headings, rows, ("model", "dataset", "A", "B", "better")
            )
            console.print(fitting(console, draw, headings, drop))
    for document in results.get("seeds", ()):
        for seed, error in document["errors"].items():
            text = f"{document['model']}, seed {seed}, failed: {error}"
            console.print(Text(text, style="red"), soft_wrap=True)


def difference_row(pair: Difference) -> Cells:
    """Return one pair's cells under `DIFFERENCE_HEADINGS`."""
    best = {"a better": pair.a, "b better": pair.b}.get(pair.verdict)
    verdict = tr("{model} is better", model=best) if best else tr("no difference shown")
    return [
        pair.a,
        pair.b,
        f"{pair.accuracy_difference:+.4f}",
        tr("{low} to {high}", low=f"{pair.low:+.3f}", high=f"{pair.high:+.3f}"),
        f"{pair.only_a} / {pair.only_b}",
        f"{pair.p_value:.3g} ({pair.p_adjusted:.3g})",
        f"{pair.training_time_ratio:.2f}",
        verdict,
    ]


def short_row(pair: Difference) -> Cells:
    """Return one pair's cells under `SHORT_HEADINGS`."""
    better = {"a better": pair.a, "b better": pair.b}.get(pair.verdict, tr("none shown"))
    cells = dict(zip(DIFFERENCE_HEADINGS, difference_row(pair), strict=True))
    difference, interval = cells["accuracy B-A"], cells["95 % interval"]
    return [pair.a, pair.b, difference, interval, f"{pair.p_adjusted:.3g}", better]


def fits(console: Console, table: Table) -> bool:
    """Return whether a table is no wider than the terminal."""
    natural = console.options.update(width=10_000)
    return console.measure(table, options=natural).maximum <= console.width


def fitting(
    console: Console, draw: Callable[[Cells], Table], headings: Sequence[str], drop: Sequence[str]
) -> Table:
    """Return a table with all columns that fit in the terminal.

    Args:
        draw: Returns the table with some of the columns.
        headings: All columns.
        drop: Columns to leave out until the others fit, the first one first.
    """
    columns = list(headings)
    table = draw(columns)
    for name in drop:
        if fits(console, table):
            break
        if name in columns:
            columns.remove(name)
            table = draw(columns)
    return table


def markdown(headings: Sequence[str], rows: Sequence[Cells], *, timings: bool = True) -> str:
    """Return a markdown table, with the columns of times or without."""
    kept = [place for place, name in enumerate(headings) if timings or name not in TIMINGS]
    lines = [[cells[place] for place in kept] for cells in (headings, *rows)]
    lines.insert(1, ["---"] * len(kept))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def failures(outcomes: Sequence[Outcome]) -> list[tuple[str, str]]:
    """Return each error once, with the names of the models that raised it."""
    return [
        (", ".join(o.model for o in outcomes if o.error == error), error)
        for error in dict.fromkeys(o.error for o in outcomes if o.error)
    ]


@speaking(Language.en)
def results_markdown(outcomes: Sequence[Outcome], *, timings: bool = True) -> str:
    """Return the table of results, with the errors of failed models below it.

    Args:
        timings: Whether to show times, which differ in each repetition.
    """
    errors = "".join(
        f"\n**{names}** failed:\n\n````\n{error}\n````\n" for names, error in failures(outcomes)
    )
    tables = [results_table(outcomes, task) for task in TASKS]
    variants = beside_table(outcomes)
    text = "\n".join(markdown(*table, timings=timings) for table in tables if table[1])
    if variants:
        table = markdown(BESIDE_HEADINGS, variants, timings=timings)
        text += f"\nBeside the models:\n\n{table}"
    if folds := folds_table(outcomes):
        text += f"\n{FOLDS_TITLE}:\n\n" + markdown(FOLDS_HEADINGS, folds)
        text += "".join(f"\n{note}\n" for note in folds_notes(outcomes))
    return text + errors


@speaking(Language.en)
def differences_markdown(differences: Sequence[Difference], *, timings: bool = True) -> str:
    """Return the table of differences, with the ratio of training times or without."""
    rows = [difference_row(pair) for pair in differences]
    return markdown(DIFFERENCE_HEADINGS, rows, timings=timings)


def _drawn(
    title: str,
    headings: Sequence[str],
    rows: Sequence[Cells],
    left: Sequence[str],
    columns: Cells,
    caption: str | None = None,
) -> Table:
    """Return a table with some of its columns; those in `left` are aligned left."""
    table = Table(title=title, caption=caption)
    for name in columns:
        table.add_column(tr(name), justify="left" if name in left else "right")
    for row in rows:
        cells = dict(zip(headings, row, strict=True))
        status = cells.get("status", "")
        table.add_row(
            *(
                Text(tr(status), style=COLOURS[status]) if name == "status" else Text(cells[name])
                for name in columns
            )
        )
    return table


def print_results(
    console: Console, outcomes: Sequence[Outcome], *, show_status: bool = True
) -> None:
    """Print the table of results, then the errors."""
    for task in TASKS:
        headings, rows = results_table(outcomes, task)
        title = RESULTS_TITLE if task.classes else CURVES_TITLE
        if rows:
            draw = partial(_drawn, tr(title), headings, rows, ("model", "dataset", "status", "run"))
            columns = [name for name in headings if show_status or name != "status"]
            console.print(fitting(console, draw, columns, DROPPED))
    for title, headings, rows, drop in (
        (BESIDE_TITLE, BESIDE_HEADINGS, beside_table(outcomes), BESIDE_DROPPED),
        (FOLDS_TITLE, FOLDS_HEADINGS, folds_table(outcomes), FOLDS_DROPPED),
    ):
        if rows:
            draw = partial(_drawn, tr(title), headings, rows, headings)
            console.print(fitting(console, draw, headings, drop))
    for note in folds_notes(outcomes):
        console.print(note, soft_wrap=True)
    for names, error in failures(outcomes):
        console.print(Text(f"{names} failed: {error}", style="red"), soft_wrap=True)


def print_differences(
    console: Console,
    differences: Sequence[Difference],
    among: Sequence[Difference] | None = None,
) -> None:
    """Print one table of differences for each dataset.

    Args:
        among: All pairs that Holm's correction covers, if only some are printed.
    """
    among = differences if among is None else among
    for dataset in dict.fromkeys(pair.dataset for pair in differences):
        pairs = [pair for pair in differences if pair.dataset == dataset]
        total = sum(pair.dataset == dataset for pair in among)
        title = tr(
            "Is the difference real? {examples} test examples of {dataset}",
            examples=f"{pairs[0].examples:,}",
            dataset=dataset,
        )
        caption = (
            None
            if len(pairs) == total
            else tr(
                "adjusted (Holm) for all {total} pairs of models that ran on {dataset}",
                total=total,
                dataset=dataset,
            )
        )
        left = ("A", "B", "verdict", "better")
        for names, row, drop in (
            (DIFFERENCE_HEADINGS, difference_row, DIFFERENCES_DROPPED),
            (SHORT_HEADINGS, short_row, SHORT_DROPPED),
        ):
            rows = [row(pair) for pair in pairs]
            draw = partial(_drawn, title, names, rows, left, caption=caption)
            table = fitting(console, draw, names, drop)
            if fits(console, table):
                break
        console.print(table)
