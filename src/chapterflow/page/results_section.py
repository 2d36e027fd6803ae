"""The section of results: which model is best, how surely, and at which cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from chapterflow.evaluation.significance import SIGNIFICANCE, Difference
from chapterflow.language import message, tr, trn
from chapterflow.page.material import SCORE_NAMES, Entry, Material
from chapterflow.page.parts import Cell, Table, interval, number, times
from chapterflow.page.plots import Point, intervals, pareto_front, trade_off
from chapterflow.page.svg import Drawing, Pen
from chapterflow.tracking import runs
from chapterflow.tracking.records import over_folds

#: Metric, heading, unit, decimals.
COSTS = (
    ("train/seconds", message("training time (s)"), 1.0, 1),
    ("cost/latency_ms_median", message("latency (ms)"), 1.0, 2),
    ("cost/parameters", message("parameters"), 1.0, 0),
    ("cost/flops", message("MFLOPs"), 1e6, 3),
)


@dataclass(frozen=True)
class Group:
    """Models that were scored on one test set."""

    title: str
    anchor: str
    lead: str
    table: Table
    drawings: list[Drawing] = field(default_factory=list)
    differences: Table | None = None


def groups(material: Material, pen: Pen) -> list[Group]:
    """Return the results for each test set."""
    return [_group(entries, material, pen) for entries in material.by_test_set()]


def _group(entries: Sequence[Entry], material: Material, pen: Pen) -> Group:
    first = entries[0]
    task = first.task
    entries = sorted(entries, key=_score, reverse=task.higher_is_better)
    labels = {entry.label for entry in entries}
    pairs = [pair for pair in material.differences if {pair.a, pair.b} <= labels]
    role = first.facts.tags.get(runs.ROLE, first.facts.dataset)
    title = tr(role.capitalize())
    if role != first.facts.dataset:
        title = tr("{role}: {dataset}", role=title, dataset=first.facts.dataset)
    examples = first.metric("test/examples") or 0
    score = tr(SCORE_NAMES[task.score])
    drawings = []
    if len(entries) > 1:
        caption = tr(
            "{score} on {examples} test examples, with 95 % intervals",
            score=f"{score[0].upper()}{score[1:]}",
            examples=f"{examples:,.0f}",
        )
        drawings.append(
            intervals(pen, [_point(e, "train/seconds") for e in entries], score, caption)
        )
        for key, heading, _, _ in COSTS[:3]:
            points = [_point(entry, key) for entry in entries]
            drawings.append(
                trade_off(pen, points, tr(heading), score, higher_is_better=task.higher_is_better)
            )
    return Group(
        title=title,
        anchor=f"results-{first.anchor}",
        lead=_lead(entries, pairs, examples),
        table=_leaderboard(entries, title),
        drawings=drawings,
        differences=_differences(pairs, title) if pairs else None,
    )


def _score(entry: Entry) -> float:
    """Return the score of a model: the mean over its folds, if it has any."""
    folds = over_folds(entry.facts.metrics)
    return folds[0] if folds else entry.facts.metrics[entry.task.metric]


def _bounds(entry: Entry) -> tuple[float | None, float | None]:
    """Return the interval of the score: one deviation of the folds, or 95 %."""
    folds = over_folds(entry.facts.metrics)
    if folds:
        return folds[0] - folds[1], folds[0] + folds[1]
    return entry.metric(f"{entry.task.metric}_low"), entry.metric(f"{entry.task.metric}_high")


def _point(entry: Entry, cost: str) -> Point:
    score = _score(entry)
    low, high = (score if end is None else end for end in _bounds(entry))
    return Point(entry.label, max(entry.metric(cost) or 0.0, 1e-9), score, low, high)


def _lead(entries: Sequence[Entry], pairs: Sequence[Difference], examples: float) -> str:
    """Say in sentences what the table shows, and no more than it shows."""
    best = entries[0]
    facts = {
        "model": best.label,
        "metric": tr(SCORE_NAMES[best.task.score]),
        "score": f"{_score(best):.4f}",
        "examples": f"{examples:,.0f}",
    }
    sentences = [
        tr("{model} has the best {metric}, {score}, on {examples} test examples.", **facts)
        if len(entries) > 1
        else tr("{model} reaches {metric} {score} on {examples} test examples.", **facts)
    ]
    if folded := [entry.label for entry in entries if over_folds(entry.facts.metrics)]:
        sentences.append(
            tr(
                "Accuracy and interval of {models} are mean and deviation over the folds of all "
                "graphs.",
                models=", ".join(folded),
            )
        )
    golay = best.metric("baseline/savitzky_golay/rmse")
    if not best.task.classes and golay is not None:
        sentences.append(
            tr(
                "The best Savitzky-Golay filter reaches {score}; lower is better.",
                score=f"{golay:.4f}",
            )
        )
    real = [pair for pair in pairs if pair.p_adjusted < SIGNIFICANCE]
    if real:
        named = "; ".join(
            tr("{best} over {other}", best=best, other=other)
            for best, other in (
                (pair.a, pair.b) if pair.verdict == "a better" else (pair.b, pair.a)
                for pair in real
            )
        )
        sentences.append(
            trn(
                "{count} of {pairs} pairs differs significantly: {named}.",
                "{count} of {pairs} pairs differ significantly: {named}.",
                count=len(real),
                pairs=len(pairs),
                named=named,
            )
            if len(pairs) > 1
            else tr("The pair differs significantly: {named}.", named=named)
        )
    elif pairs:
        sentences.append(
            tr("No difference between these models is statistically significant.")
            if len(pairs) > 1
            else tr("The difference is not statistically significant.")
        )
    return " ".join(sentences)


def _leaderboard(entries: Sequence[Entry], title: str) -> Table:
    task = entries[0].task
    fronts = {
        key: {
            p.label
            for p in pareto_front(
                [_point(e, key) for e in entries], higher_is_better=task.higher_is_better
            )
        }
        for key, *_ in COSTS[:3]
    }
    rows = []
    for entry in entries:
        m = entry.metric
        quality = (
            [
                number(m("test/balanced_accuracy"), 4),
                number(m("test/log_loss"), 3),
                number(m("test/ece"), 3),
                number(m("test/macro_f1"), 4),
            ]
            if task.classes
            else [
                number(m("baseline/savitzky_golay/rmse"), 4),
                number(m("baseline/moving_average/rmse"), 4),
                number(m("test/input_rmse"), 4),
            ]
        )
        costs = []
        for key, _, unit, digits in COSTS:
            value = m(key)
            cell = number(None if value is None else value / unit, digits)
            front = len(entries) > 1 and entry.label in fronts.get(key, ())
            costs.append(Cell(f"{cell.text} ●" if front else cell.text, cell.sort, tone=cell.tone))
        rows.append(
            [
                Cell(entry.label, href=f"#{entry.anchor}"),
                number(_score(entry), 4),
                interval(*_bounds(entry), 3 if task.classes else 4),
                *quality,
                *costs,
                Cell(entry.facts.run_id[:8], code=True, href="#lineage"),
            ]
        )
    scores = (
        [
            *(tr("accuracy"), tr("95 % interval"), tr("balanced accuracy")),
            *(tr("log-loss"), tr("calibration error"), tr("macro F1")),
        ]
        if task.classes
        else [
            *(tr("RMSE"), tr("95 % interval"), tr("SG filter RMSE")),
            *(tr("mean filter RMSE"), tr("input RMSE")),
        ]
    )
    headings = [tr("model"), *scores, *(tr(heading) for _, heading, _, _ in COSTS), tr("run")]
    caption = (
        tr(
            "{title}: the best score first. ● is on the Pareto front of score and this cost.",
            title=title,
        )
        if len(entries) > 1
        else tr("{title}: the best score first.", title=title)
    )
    return Table(
        caption, headings, rows,
        [False, *[True] * (len(headings) - 2), False],
    )  # fmt: skip


def _differences(pairs: Sequence[Difference], title: str) -> Table:
    rows = []
    for pair in sorted(pairs, key=lambda pair: pair.p_adjusted):
        real = pair.p_adjusted < SIGNIFICANCE
        verdict = tr("no difference shown")
        if real:
            best = pair.a if pair.verdict == "a better" else pair.b
            verdict = tr("{model} is better", model=best)
        rows.append(
            [
                Cell(tr("{a} and {b}", a=pair.a, b=pair.b)),
                number(pair.accuracy_difference, 4, sign=True),
                interval(pair.low, pair.high, 3, sign=True),
                Cell(f"{pair.only_a} / {pair.only_b}", float(pair.only_a + pair.only_b)),
                Cell(f"{pair.p_value:.3g}", pair.p_value),
                Cell(f"{pair.p_adjusted:.3g}", pair.p_adjusted),
                times(pair.training_time_ratio),
                Cell(verdict, tone="good" if real else "dim"),
            ]
        )
    headings = [
        tr("A and B"), tr("accuracy, B minus A"), tr("95 % interval"), tr("only A / B right"),
        tr("McNemar p"), tr("p after Holm"), tr("training time, B / A"), tr("verdict"),
    ]  # fmt: skip
    return Table(
        tr(
            "{title}: is the difference real? McNemar's test on the same {examples} examples, "
            "paired bootstrap of the difference",
            title=title, examples=f"{pairs[0].examples:,}",
        ),
        headings, rows, [False, *[True] * 6, False],
    )  # fmt: skip
