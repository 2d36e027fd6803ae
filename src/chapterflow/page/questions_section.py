"""The section of questions: what `questions:` in `params.yaml` asks, answered from the runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chapterflow.evaluation.significance import SIGNIFICANCE, Difference
from chapterflow.page.material import SCORE_NAMES, Entry, Material
from chapterflow.page.parts import Cell, Table, interval, number, ratio, times
from chapterflow.tracking.records import over_folds

if TYPE_CHECKING:
    from chapterflow.config.settings import QuestionParams

#: Metric, heading, unit and decimals of a comparison of two models.
MEASURES = (
    ("train/seconds", "training time (s)", 1.0, 2),
    ("train/epochs", "epochs", 1.0, 0),
    ("test/log_loss", "log-loss", 1.0, 4),
    ("test/accuracy", "accuracy", 1.0, 4),
    ("test/rmse", "RMSE", 1.0, 4),
    ("errors", "errors on the test split", 1.0, 0),
    ("cost/parameters", "parameters", 1.0, 0),
    ("cost/flops", "MFLOPs per example", 1e6, 3),
    ("cost/latency_ms_median", "latency (ms per example)", 1.0, 2),
)


@dataclass(frozen=True)
class Question:
    """A question with its answer; no table if the page has no run that answers it."""

    title: str
    anchor: str
    answer: str
    table: Table | None = None


def questions(material: Material) -> list[Question]:
    """Return the questions with their answers."""
    return [
        (_against if question.against else _variants)(f"question-{key}", question, material)
        for key, question in material.questions.items()
    ]


def _against(anchor: str, question: QuestionParams, material: Material) -> Question:
    """Compare two models; without a shared test set there is no answer."""
    for group in material.by_test_set():
        entries = {entry.facts.model: entry for entry in reversed(group)}
        if question.model in entries and question.against in entries:
            first, second = entries[question.against], entries[question.model]
            break
    else:
        return Question(
            question.title,
            anchor,
            f"No runs on this page answer this: `chapterflow run {question.against} "
            f"{question.model}` makes them.",
        )
    rows = []
    for key, name, unit, digits in MEASURES:
        a, b = (_measure(entry, key) for entry in (first, second))
        if a is not None or b is not None:
            cells = (number(None if v is None else v / unit, digits) for v in (a, b))
            rows.append([Cell(name), *cells, times(ratio(b, a))])
    answers = [
        _difference(pair, first.label, second.label)
        for pair in material.differences
        if {pair.a, pair.b} == {first.label, second.label}
    ]
    slower = ratio(second.metric("train/seconds"), first.metric("train/seconds"))
    if slower is not None:
        answers.append(f"Training {second.label} takes {slower:.2f} times as long.")
    return Question(
        question.title,
        anchor,
        " ".join(answers),
        Table(
            f"{first.label} and {second.label} on {first.facts.dataset}",
            ["", first.label, second.label, f"{second.label} / {first.label}"],
            rows,
            [False, True, True, True],
            sortable=False,
            small=True,
        ),
    )


def _measure(entry: Entry, key: str) -> float | None:
    if key == "errors":
        examples, correct = entry.metric("test/examples"), entry.metric("test/correct")
        return None if examples is None or correct is None else examples - correct
    return entry.metric(key)


def _difference(pair: Difference, first: str, second: str) -> str:
    sign = 1 if pair.b == second else -1
    low, high = sorted((sign * pair.low * 100, sign * pair.high * 100))
    verdict = (
        "a significant difference"
        if pair.p_adjusted < SIGNIFICANCE
        else "no significant difference"
    )
    return (
        f"{second} minus {first}: {sign * pair.accuracy_difference * 100:+.2f} percentage points "
        f"of accuracy on the same {pair.examples:,} examples (95 % interval {low:+.2f} to "
        f"{high:+.2f}), {verdict} (McNemar p = {pair.p_value:.3g}, after Holm "
        f"{pair.p_adjusted:.3g})."
    )


@dataclass(frozen=True)
class _Variant:
    """A model or one of its variants, by its metrics.

    Attributes:
        entry: The run.
        name: Name in the table.
        scores: Start of the metric names of its scores.
        costs: Start of the metric names of its costs.
        seconds: Metric of its training time.
    """

    entry: Entry
    name: str
    scores: str
    costs: str
    seconds: str

    def metric(self, name: str) -> float | None:
        return self.entry.metric(name)

    @property
    def folds(self) -> tuple[float, float] | None:
        """Mean and deviation of the accuracy over the folds; None without a cross-validation."""
        return over_folds(self.entry.facts.metrics, self.scores.partition("/")[2])

    @property
    def score(self) -> float | None:
        """The score, over the folds if there are any; None if the variant was not trained."""
        if folds := self.folds:
            return folds[0]
        return self.metric(f"{self.scores}/{self.entry.task.score}")

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """Lower and upper end of the score's interval; one deviation of the folds."""
        if folds := self.folds:
            return folds[0] - folds[1], folds[0] + folds[1]
        name = f"{self.scores}/{self.entry.task.score}"
        return self.metric(f"{name}_low"), self.metric(f"{name}_high")

    def cost(self, name: str) -> float | None:
        return self.metric(f"{self.costs}/{name}")

    def is_apart(self, other: _Variant) -> bool:
        """Return whether the intervals of two scores are disjoint."""
        (low, high), (other_low, other_high) = self.bounds, other.bounds
        if low is None or high is None or other_low is None or other_high is None:
            return False
        return high < other_low or low > other_high

    def row(self) -> list[Cell]:
        """Return score, interval, training time, parameters and operations as cells."""
        flops = self.cost("flops")
        return [
            Cell(self.name),
            number(self.score, 4),
            interval(*self.bounds, 3),
            number(self.metric(self.seconds), 1),
            number(self.cost("parameters"), 0),
            number(None if flops is None else flops / 1e6, 3),
        ]


def _variants(anchor: str, question: QuestionParams, material: Material) -> Question:
    """Compare a model with its variants, which share data and seed."""
    starts = tuple(question.variants)
    for entry in material.entries:
        names = _variant_names(entry, starts) if entry.facts.model == question.model else []
        if names:
            break
    else:
        return Question(
            question.title,
            anchor,
            f"No run on this page answers this: `chapterflow run {question.model}` makes one, if "
            f"the profile has a variant {' or '.join(f'`{start}…`' for start in starts)} of the "
            "model.",
        )
    # Variants like `readout_sum` change the parameter `readout`; the model has a value of its own.
    params = entry.facts.params
    values = ", ".join(f"{name} {params[name]}" for name in starts if name in params)
    label = f"{entry.label} ({values})" if values else entry.label
    own = _Variant(entry, label, "test", "cost", "train/seconds")
    variants = [
        _Variant(
            entry,
            name.replace("_", " "),
            *(f"beside/{name}", f"beside/{name}", f"beside/{name}/train_seconds"),
        )
        for name in names
    ]
    rows = [own.row(), *(variant.row() for variant in variants)]
    majority = entry.metric("baseline/majority_accuracy")
    if majority is not None:
        rows.append([Cell("majority class"), number(majority, 4), *(number(None, 0),) * 4])
    score = SCORE_NAMES[entry.task.score]
    return Question(
        question.title,
        anchor,
        _answer(own, variants),
        Table(
            f"{entry.label} and its variants on {entry.facts.dataset}: same data, same seed",
            ["", score, "95 % interval", "training time (s)", "parameters", "MFLOPs per example"],
            rows,
            [False, True, True, True, True, True],
            small=True,
        ),
    )


def _variant_names(entry: Entry, starts: tuple[str, ...]) -> list[str]:
    """Return the names of a run's variants that start so, in the order of `starts`."""
    names = {key.split("/")[1] for key in entry.facts.metrics if key.startswith("beside/")}
    chosen = [name for start in starts for name in sorted(names) if name.startswith(start)]
    return list(dict.fromkeys(chosen))


def _answer(own: _Variant, variants: Sequence[_Variant]) -> str:
    """Say in sentences how the variants differ from the model, and which score is the best."""
    task = own.entry.task
    name = SCORE_NAMES[task.score]
    examples = own.metric("test/examples") or 0
    parts = []
    for variant in variants:
        sizes = (
            (ratio(variant.cost("parameters"), own.cost("parameters")), "parameters"),
            (ratio(variant.cost("flops"), own.cost("flops")), "operations"),
        )
        trained = variant.score is not None
        costs = [
            f"{factor:.1f} times the {what}"
            for factor, what in sizes
            if factor is not None and (_differs(factor) or not trained)
        ]
        if variant.score is None or own.score is None:
            parts.append(f"{variant.name}: {' and '.join(costs)} (counted, not trained)")
            continue
        slower = ratio(variant.metric(variant.seconds), own.metric(own.seconds))
        gain = variant.score - own.score
        facts = [
            f"{gain * 100:+.1f} points" if task.classes else f"{gain:+.4f}",
            *([f"{slower:.1f} times the training time"] if _differs(slower) else []),
            *costs,
            "intervals are disjoint" if variant.is_apart(own) else "intervals overlap",
        ]
        parts.append(f"{variant.name} {variant.score:.4f} ({', '.join(facts)})")
    scored = [variant for variant in (own, *variants) if variant.score is not None]
    if len(scored) < 2:
        return f"Compared with {own.name}, {'; '.join(parts)}."
    sign = 1 if task.higher_is_better else -1
    best = max(scored, key=lambda variant: sign * (variant.score or 0.0))
    on = "over the folds of all graphs" if own.folds else f"on {examples:,.0f} test examples"
    return (
        f"{own.name} reaches {name} {own.score:.4f} {on}; "
        f"{'; '.join(parts)}. The best is {best.name}."
    )


def _differs(factor: float | None) -> bool:
    return factor is not None and f"{factor:.1f}" != "1.0"
