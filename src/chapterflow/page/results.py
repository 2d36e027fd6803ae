"""The section of results: who is best, whether that is real, and at which cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from chapterflow.evaluation.compare import SIGNIFICANCE, Difference
from chapterflow.page.material import SCORE_NAMES, Entry, Material
from chapterflow.page.parts import Cell, Table, interval, number, times
from chapterflow.page.plots import Point, intervals, pareto_front, trade_off
from chapterflow.page.svg import Draughtsman, Drawing

#: Metric, heading, what it is divided by, decimals.
COSTS = (
    ("train/seconds", "training time (s)", 1.0, 1),
    ("cost/latency_ms_median", "latency (ms)", 1.0, 2),
    ("cost/parameters", "parameters", 1.0, 0),
    ("cost/flops", "MFLOPs", 1e6, 3),
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


def groups(material: Material, pen: Draughtsman) -> list[Group]:
    """Return what there is to say about the models of each test set."""
    return [_group(entries, material, pen) for entries in material.by_test_set()]


def _group(entries: Sequence[Entry], material: Material, pen: Draughtsman) -> Group:
    first = entries[0]
    higher = first.score == "accuracy"
    sign = -1 if higher else 1
    entries = sorted(entries, key=lambda e: sign * e.facts.metrics[f"test/{e.score}"])
    names = {entry.label for entry in entries}
    pairs = [pair for pair in material.differences if {pair.a, pair.b} <= names]
    role = first.facts.tags.get("chapterflow.role", first.facts.dataset)
    title = role.capitalize()
    if role != first.facts.dataset:
        title += f": {first.facts.dataset}"
    examples = first.metric("test/examples") or 0
    drawings = []
    if len(entries) > 1:
        drawings.append(
            intervals(pen, [_point(e, "train/seconds") for e in entries], SCORE_NAMES[first.score],
                      f"{SCORE_NAMES[first.score].capitalize()} on {examples:,.0f} test examples, "
                      "with 95 % intervals")
        )  # fmt: skip
        for key, heading, _, _ in COSTS[:3]:
            drawings.append(
                trade_off(pen, [_point(e, key) for e in entries], heading,
                          SCORE_NAMES[first.score], higher_is_better=higher)
            )  # fmt: skip
    return Group(
        title=title,
        anchor=f"results-{first.anchor}",
        lead=_lead(entries, pairs, examples),
        table=_leaderboard(entries, title, higher=higher),
        drawings=drawings,
        differences=_differences(pairs, title) if pairs else None,
    )


def _point(entry: Entry, cost: str) -> Point:
    found = entry.facts.metrics
    score = found[f"test/{entry.score}"]
    low = found.get(f"test/{entry.score}_low", score)
    high = found.get(f"test/{entry.score}_high", score)
    return Point(entry.label, max(found.get(cost, 0.0), 1e-9), score, low, high)


def _lead(entries: Sequence[Entry], pairs: Sequence[Difference], examples: float) -> str:
    """Say in sentences what the table shows, and no more than it shows."""
    first = entries[0]
    sign = 1 if first.score == "accuracy" else -1
    best = max(entries, key=lambda entry: sign * entry.facts.metrics[f"test/{entry.score}"])
    score = best.facts.metrics[f"test/{best.score}"]
    told = (
        f"{best.label} has the best {SCORE_NAMES[best.score]}, {score:.4f}"
        if len(entries) > 1
        else f"{best.label} reaches {SCORE_NAMES[best.score]} {score:.4f}"
    )
    told += f", on {examples:,.0f} test examples."
    if best.score == "rmse" and "baseline/savitzky_golay/rmse" in best.facts.metrics:
        golay = best.facts.metrics["baseline/savitzky_golay/rmse"]
        told += f" The best Savitzky-Golay filter reaches {golay:.4f}; less is better."
    if pairs:
        real = [pair for pair in pairs if pair.p_adjusted < SIGNIFICANCE]
        if not real:
            told += (
                " No difference between these models is shown to be more than luck."
                if len(pairs) > 1
                else " The difference is not shown to be more than luck."
            )
        else:
            named = "; ".join(
                f"{pair.a} over {pair.b}"
                if pair.verdict == "a better"
                else f"{pair.b} over {pair.a}"
                for pair in real
            )
            told += f" Of {len(pairs)} pairs {len(real)} differ for real: {named}."
    return told


def _leaderboard(entries: Sequence[Entry], title: str, *, higher: bool) -> Table:
    fronts = {
        key: {
            p.label
            for p in pareto_front([_point(e, key) for e in entries], higher_is_better=higher)
        }
        for key, *_ in COSTS[:3]
    }
    rows = []
    for entry in entries:
        m = entry.metric
        quality = (
            [number(m("test/log_loss"), 3), number(m("test/ece"), 3), number(m("test/macro_f1"), 4)]
            if higher
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
                number(m(f"test/{entry.score}"), 4),
                interval(
                    m(f"test/{entry.score}_low"), m(f"test/{entry.score}_high"), 3 if higher else 4
                ),
                *quality,
                *costs,
                Cell(entry.facts.run_id[:8], code=True, href="#lineage"),
            ]
        )
    scores = (
        ["accuracy", "95 % interval", "log-loss", "calibration error", "macro F1"]
        if higher
        else ["RMSE", "95 % interval", "SG filter RMSE", "mean filter RMSE", "input RMSE"]
    )
    headings = ["model", *scores, *(heading for _, heading, _, _ in COSTS), "run"]
    dotted = " ● is on the Pareto front of score and this cost." if len(entries) > 1 else ""
    return Table(
        f"{title}: the best score first.{dotted}", headings, rows,
        [False, *[True] * (len(headings) - 2), False],
    )  # fmt: skip


def _differences(pairs: Sequence[Difference], title: str) -> Table:
    rows = []
    for pair in sorted(pairs, key=lambda pair: pair.p_adjusted):
        real = pair.p_adjusted < SIGNIFICANCE
        verdict = pair.verdict
        if real:
            verdict = f"{pair.a if pair.verdict == 'a better' else pair.b} is better"
        rows.append(
            [
                Cell(f"{pair.a} and {pair.b}"),
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
        "A and B", "accuracy, B minus A", "95 % interval", "only A / B right",
        "McNemar p", "p after Holm", "training time, B of A", "verdict",
    ]  # fmt: skip
    return Table(
        f"{title}: is the difference real? McNemar's test on the same {pairs[0].examples:,} "
        "examples, paired bootstrap of the difference",
        headings, rows, [False, *[True] * 6, False],
    )  # fmt: skip
