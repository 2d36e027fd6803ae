"""The cards of questions: what `questions:` in `params.yaml` asks, answered from the runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from chapterflow.evaluation.significance import SIGNIFICANCE, Difference
from chapterflow.language import message, tr
from chapterflow.page.material import SCORE_NAMES, Entry, Material
from chapterflow.page.parts import (
    Album,
    Cell,
    Picture,
    Table,
    between,
    example_images,
    interval,
    number,
    ratio,
    times,
)
from chapterflow.tracking.records import over_folds

if TYPE_CHECKING:
    from chapterflow.config.settings import QuestionParams

#: Metric, heading, unit and decimals of a comparison of two models.
MEASURES = (
    ("train/seconds", message("training time (s)"), 1.0, 2),
    ("train/epochs", message("epochs"), 1.0, 0),
    ("test/log_loss", message("log-loss"), 1.0, 4),
    ("test/accuracy", message("accuracy"), 1.0, 4),
    ("test/rmse", message("RMSE"), 1.0, 4),
    ("errors", message("errors on the test split"), 1.0, 0),
    ("cost/parameters", message("parameters"), 1.0, 0),
    ("cost/flops", message("MFLOPs per example"), 1e6, 3),
    ("cost/latency_ms_median", message("latency (ms per example)"), 1.0, 2),
)
#: Examples that one of two models alone gets right, on a card.
EXAMPLES = 6
#: Names of the filters that a model of curves is compared with.
FILTERS = message({"savitzky_golay": "Savitzky-Golay filter", "moving_average": "moving average"})

#: Every sentence of the cards. Probabilities are rounded as `_p` does.
WORDS = message({
    "no_pair": "No runs on this page answer this: `chapterflow run {a} {b}` makes them.",
    "no_variant": "No run on this page answers this: `chapterflow run {model}` makes one, if the "
    "profile has a variant {variants} of the model.",
    "no_baseline": "No run on this page answers this: `chapterflow run {model}` makes one.",
    "better": "{best} beats {other}: {high} against {low} of {examples} test examples right.",
    "luck": "{best} is ahead of {other}, {high} against {low} of {examples} test examples right, "
    "but that may be luck.",
    "equal": "{best} and {other} are level: {high} of {examples} test examples right.",
    "decided": "{best} alone is right on {most} examples, {other} alone on {least}: luck would "
    "split them so unevenly with a probability of {p}.",
    "decided_of_many": "{best} alone is right on {most} examples, {other} alone on {least}: luck "
    "would split them so unevenly with a probability of {p}, corrected for {pairs} pairs of "
    "models.",
    "few": "{most} examples are right for {best} alone and {least} for {other} alone; luck splits "
    "them so unevenly with a probability of {p}.",
    "many": "As the only pair it would count (p = {p}), but {pairs} pairs of models were compared, "
    "and the luckiest of so many often looks like this (p = {p_adjusted} after correction).",
    "alone": "The 95 % interval of the difference, {low} to {high} points, is of this pair alone, "
    "without a correction for the {pairs} pairs.",
    "never": "No example is right for one of them alone.",
    "cost": "{model} has {parameters} times the parameters of {other} and takes {seconds} times as "
    "long to train.",
    "error": "{model} leaves an error (RMSE) of {score} on {examples} test curves; {others}.",
    "error_other": "the {name} leaves {score}, {ratio} times as much",
    "score": "{model} gets {score} of {examples} test examples right; {others}.",
    "score_folds": "{model} gets {score} of the examples of all folds right; {others}.",
    "score_other": "{name} {score} ({verdict})",
    "count": "{model} has {parameters} parameters; {others}.",
    "count_other": "{name} it would have {parameters}, {ratio} times as many, and need "
    "{operations} times the operations",
    "is_better": "clearly better",
    "is_worse": "clearly worse",
    "is_unclear": "may be luck",
    "is_same": "the same",
    "by_intervals": "A difference is clear where the 95 % intervals do not overlap.",
    "by_folds": "A difference is clear where the ranges of one standard deviation over the folds "
    "do not overlap.",
    "by_filters": "The windows of the filters were chosen on the training curves, so they are the "
    "best filters of their kind.",
    "by_count": "The numbers follow from the layers; the variant was not trained, so this says "
    "nothing about its accuracy.",
    "wrong": "Wrong answers on {examples} test examples, in percent; whiskers: 95 % interval. "
    "Shorter is better.",
    "wrong_folds": "Wrong answers on the examples of all folds, in percent; whiskers: one standard "
    "deviation over the folds. Shorter is better.",
    "share": "{share} % wrong",
    "rmse": "Error (RMSE) on {examples} test curves; whiskers: 95 % interval. Shorter is better.",
    "parameters": "Parameters. Shorter is better.",
    "only": "Only {model} is right ({count})",
    "only_caption": "{true}, not {answer}",
    "only_alt": "Test example {index}: {true}; {model} answers {answer}",
})  # fmt: skip


@dataclass(frozen=True)
class Bar:
    """One bar of a card: a length from 0 to 1, and where its whiskers begin and end.

    Attributes:
        text: The value with its interval.
        href: Section of the model; empty for what has none.
        low: Lower end of the interval; None without an interval.
    """

    label: str
    text: str
    length: float
    href: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Question:
    """A question with its answer; no bars and no table if the page has no run that answers it.

    Attributes:
        title: The question.
        verdict: The answer in one sentence.
        why: How far to trust the answer, in a sentence or two.
        chart: What the bars show.
        bars: One for each model, variant or filter.
        examples: Pictures that one of two models alone gets right, below their headings.
        table: All measures.
    """

    title: str
    anchor: str
    verdict: str
    why: str = ""
    chart: str = ""
    bars: list[Bar] = field(default_factory=list)
    examples: list[tuple[str, list[Picture]]] = field(default_factory=list)
    table: Table | None = None


def questions(material: Material, album: Album) -> list[Question]:
    """Return the questions with their answers.

    Args:
        material: Runs and data.
        album: Collects the pictures.
    """
    return [
        _against(f"question-{key}", question, material, album)
        if question.against
        else _baselines(f"question-{key}", question, material)
        if question.baselines
        else _variants(f"question-{key}", question, material)
        for key, question in material.questions.items()
    ]


@dataclass(frozen=True)
class _Option:
    """A model, one of its variants or a filter, by its metrics.

    Attributes:
        entry: The run.
        name: Name on the card.
        scores: Start of the metric names of its scores.
        costs: Start of the metric names of its costs.
        seconds: Metric of its training time.
    """

    entry: Entry
    name: str
    scores: str = "test"
    costs: str = "cost"
    seconds: str = "train/seconds"

    def metric(self, name: str) -> float | None:
        return self.entry.metric(name)

    @property
    def href(self) -> str:
        return f"#{self.entry.anchor}" if self.scores == "test" else ""

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
            return folds[0] - folds[1], min(1.0, folds[0] + folds[1])
        name = f"{self.scores}/{self.entry.task.score}"
        return self.metric(f"{name}_low"), self.metric(f"{name}_high")

    def cost(self, name: str) -> float | None:
        return self.metric(f"{self.costs}/{name}")

    def verdict(self, other: _Option) -> str:
        """Say whether the score is better than another's: only if their intervals are disjoint."""
        if self.score == other.score:
            return _say("is_same")
        (low, high), (other_low, other_high) = self.bounds, other.bounds
        if low is None or high is None or other_low is None or other_high is None:
            return _say("is_unclear")
        if high >= other_low and low <= other_high:
            return _say("is_unclear")
        higher = low > other_high
        return _say("is_better" if higher == self.entry.task.higher_is_better else "is_worse")

    def row(self) -> list[Cell]:
        """Return score, interval, training time, parameters and operations as cells."""
        flops = self.cost("flops")
        return [
            Cell(self.name, href=self.href),
            number(self.score, 4),
            interval(*self.bounds, 3),
            number(self.metric(self.seconds), 1),
            number(self.cost("parameters"), 0),
            number(None if flops is None else flops / 1e6, 3),
        ]


def _against(anchor: str, question: QuestionParams, material: Material, album: Album) -> Question:
    """Compare two models; without a shared test set there is no answer."""
    for group in material.by_test_set():
        entries = {entry.facts.model: entry for entry in reversed(group)}
        if question.model in entries and question.against in entries:
            first, second = entries[question.against], entries[question.model]
            break
    else:
        verdict = _say("no_pair", a=question.against, b=question.model)
        return Question(tr(question.title), anchor, verdict)
    options = [_Option(entry, entry.label) for entry in (first, second)]
    labels = {entry.label for entry in group}
    pairs = [pair for pair in material.differences if {pair.a, pair.b} <= labels]
    pair = next((pair for pair in pairs if {pair.a, pair.b} == {first.label, second.label}), None)
    if pair is not None:
        verdict, why = _decided(pair, first, second, len(pairs))
    else:
        verdict, why = _scored(options[1], options[:1])
    chart, bars = _score_bars(options)
    return Question(
        tr(question.title),
        anchor,
        verdict,
        " ".join(filter(None, (why, _cost(first, second)))),
        chart,
        bars,
        _examples(first, second, album),
        _measures(first, second),
    )


def _decided(pair: Difference, first: Entry, second: Entry, pairs: int) -> tuple[str, str]:
    """Return the verdict on two models, and why: McNemar's test, corrected for all pairs."""
    sign = 1 if pair.b == second.label else -1
    only = (pair.only_a, pair.only_b)[::sign]
    scores = [entry.facts.metrics["test/accuracy"] for entry in (first, second)]
    best = 0 if only[0] > only[1] else 1
    entries = first, second
    real = pair.p_adjusted < SIGNIFICANCE
    facts = {
        "best": entries[best].label,
        "other": entries[1 - best].label,
        "high": _percent(scores[best]),
        "low": _percent(scores[1 - best]),
        "examples": f"{pair.examples:,}",
        "most": f"{only[best]:,}",
        "least": f"{only[1 - best]:,}",
        "pairs": f"{pairs:,}",
        "p": _p(pair.p_value),
        "p_adjusted": _p(pair.p_adjusted),
    }
    if real:
        why = "decided_of_many" if pairs > 1 else "decided"
        return _say("better", **facts), _say(why, **facts | {"p": facts["p_adjusted"]})
    reasons = ["never" if not sum(only) else "many" if pair.p_value < SIGNIFICANCE else "few"]
    low, high = sorted((sign * pair.low * 100, sign * pair.high * 100))
    if pairs > 1 and (low > 0 or high < 0):
        reasons.append("alone")
    facts |= {"low": _percent(scores[1 - best])}
    verdict = _say("equal" if only[0] == only[1] else "luck", **facts)
    facts |= {"low": f"{low:+.1f}", "high": f"{high:+.1f}"}
    return verdict, " ".join(_say(reason, **facts) for reason in reasons)


def _cost(first: Entry, second: Entry) -> str:
    """Say what the second model costs more than the first; empty if a run lacks its costs."""
    factors = [
        ratio(second.metric(name), first.metric(name))
        for name in ("cost/parameters", "train/seconds")
    ]
    if any(factor is None for factor in factors):
        return ""
    parameters, seconds = (f"{factor:.1f}" for factor in factors)
    return _say(
        "cost", model=second.label, other=first.label, parameters=parameters, seconds=seconds
    )


def _examples(first: Entry, second: Entry, album: Album) -> list[tuple[str, list[Picture]]]:
    """Return the test examples that one of two models alone gets right, as pictures."""
    if not all(e.task.classes and e.predictions and e.card for e in (first, second)):
        return []
    card, dataset = first.card, first.dataset
    if card is None or dataset is None or dataset.kind.look != "picture":
        return []
    label, index = first.predictions["label"], first.predictions["index"]
    answers = [entry.predictions["probability"].argmax(axis=1) for entry in (first, second)]
    result = []
    for own, other, entry, loser in ((1, 0, second, first), (0, 1, first, second)):
        places = np.flatnonzero((answers[own] == label) & (answers[other] != label))
        if not len(places):
            continue
        pictures = []
        images = example_images(dataset, index[places[:EXAMPLES]])
        for place, image in zip(places, images, strict=False):
            facts = {
                "true": card.classes[label[place]],
                "answer": card.classes[answers[other][place]],
                "index": index[place],
                "model": loser.label,
            }
            caption, alt = (_say(key, **facts) for key in ("only_caption", "only_alt"))
            pictures.append(album.picture(image, alt, caption))
        result.append((_say("only", model=entry.label, count=len(places)), pictures))
    return result


def _measures(first: Entry, second: Entry) -> Table:
    """Return all measures of two models as a table."""
    rows = []
    for key, name, unit, digits in MEASURES:
        a, b = (_measure(entry, key) for entry in (first, second))
        if a is not None or b is not None:
            cells = (number(None if v is None else v / unit, digits) for v in (a, b))
            rows.append([Cell(tr(name)), *cells, times(ratio(b, a))])
    return Table(
        tr("{a} and {b} on {dataset}", a=first.label, b=second.label, dataset=first.facts.dataset),
        ["", first.label, second.label, f"{second.label} / {first.label}"],
        rows,
        [False, True, True, True],
        sortable=False,
        small=True,
    )


def _measure(entry: Entry, key: str) -> float | None:
    if key == "errors":
        examples, correct = entry.metric("test/examples"), entry.metric("test/correct")
        return None if examples is None or correct is None else examples - correct
    return entry.metric(key)


def _variants(anchor: str, question: QuestionParams, material: Material) -> Question:
    """Compare a model with its variants, which share data and seed."""
    starts = tuple(question.variants)
    for entry in material.entries:
        names = _variant_names(entry, starts) if entry.facts.model == question.model else []
        if names:
            break
    else:
        named = ", ".join(f"`{start}…`" for start in starts)
        verdict = _say("no_variant", model=question.model, variants=named)
        return Question(tr(question.title), anchor, verdict)
    # Variants like `readout_sum` change the parameter `readout`; the model has a value of its own.
    params = entry.facts.params
    values = ", ".join(tr(f"{name} {params[name]}") for name in starts if name in params)
    own = _Option(entry, f"{entry.label} ({values})" if values else entry.label)
    variants = [
        _Option(
            entry,
            tr(name.replace("_", " ")),
            *(f"beside/{name}", f"beside/{name}", f"beside/{name}/train_seconds"),
        )
        for name in names
    ]
    trained = [variant for variant in variants if variant.score is not None]
    if trained:
        verdict, why = _scored(own, trained)
        chart, bars = _score_bars([own, *trained])
    else:
        verdict, why = _counted(own, variants)
        chart, bars = _parameter_bars([own, *variants])
    rows = [own.row(), *(variant.row() for variant in variants)]
    majority = entry.metric("baseline/majority_accuracy")
    if majority is not None:
        rows.append([Cell(tr("majority class")), number(majority, 4), *(number(None, 0),) * 4])
    headings = [
        *(SCORE_NAMES[entry.task.score], message("95 % interval"), message("training time (s)")),
        *(message("parameters"), message("MFLOPs per example")),
    ]
    table = Table(
        tr(
            "{model} and {variants} on {dataset}: same data, same seed",
            model=entry.label,
            variants=", ".join(variant.name for variant in variants),
            dataset=entry.facts.dataset,
        ),
        ["", *map(tr, headings)],
        rows,
        [False, True, True, True, True, True],
        small=True,
    )
    return Question(tr(question.title), anchor, verdict, why, chart, bars, table=table)


def _variant_names(entry: Entry, starts: tuple[str, ...]) -> list[str]:
    """Return the names of a run's variants that start so, in the order of `starts`."""
    names = {key.split("/")[1] for key in entry.facts.metrics if key.startswith("beside/")}
    chosen = [name for start in starts for name in sorted(names) if name.startswith(start)]
    return list(dict.fromkeys(chosen))


def _baselines(anchor: str, question: QuestionParams, material: Material) -> Question:
    """Compare a model of curves with filters."""
    for entry in material.entries:
        if entry.facts.model == question.model:
            named = [(name, entry.metric(f"baseline/{name}/rmse")) for name in question.baselines]
            scored = [(name, score) for name, score in named if score is not None]
            if scored:
                break
    else:
        verdict = _say("no_baseline", model=question.model)
        return Question(tr(question.title), anchor, verdict)
    own = _Option(entry, entry.label)
    filters = [
        _Option(entry, tr(FILTERS.get(name, name.replace("_", " "))), f"baseline/{name}", "", "")
        for name, _ in scored
    ]
    verdict, _ = _scored(own, filters)
    chart, bars = _score_bars([own, *filters])
    return Question(tr(question.title), anchor, verdict, _say("by_filters"), chart, bars)


def _scored(own: _Option, others: Sequence[_Option]) -> tuple[str, str]:
    """Return a sentence with the scores of a model and of others, and how they are judged."""
    task = own.entry.task
    examples = f"{own.metric('test/examples') or 0:,.0f}"
    score = own.score or 0.0
    if not task.classes:
        parts = [
            _say(
                "error_other",
                name=other.name,
                score=f"{other.score:.3f}",
                ratio=f"{(other.score or 0) / score:.1f}",
            )
            for other in others
            if other.score is not None
        ]
        verdict = _say(
            "error",
            model=own.name,
            score=f"{score:.3f}",
            examples=examples,
            others="; ".join(parts),
        )
        return verdict, _say("by_intervals")
    parts = [
        _say(
            "score_other",
            name=other.name,
            score=_percent(other.score or 0.0),
            verdict=other.verdict(own),
        )
        for other in others
    ]
    verdict = _say(
        "score_folds" if own.folds else "score",
        model=own.name,
        score=_percent(score),
        examples=examples,
        others=", ".join(parts),
    )
    return verdict, _say("by_folds" if own.folds else "by_intervals")


def _counted(own: _Option, variants: Sequence[_Option]) -> tuple[str, str]:
    """Return a sentence with the sizes of a model and of variants that were not trained."""
    parts = []
    for variant in variants:
        factors = [ratio(variant.cost(name), own.cost(name)) for name in ("parameters", "flops")]
        facts = {
            "ratio": "—" if factors[0] is None else f"{factors[0]:.1f}",
            "operations": "—" if factors[1] is None else f"{factors[1]:.1f}",
            "parameters": f"{variant.cost('parameters') or 0:,.0f}",
        }
        parts.append(_say("count_other", name=variant.name, **facts))
    verdict = _say(
        "count",
        model=own.name,
        parameters=f"{own.cost('parameters') or 0:,.0f}",
        others="; ".join(parts),
    )
    return verdict, _say("by_count")


def _score_bars(options: Sequence[_Option]) -> tuple[str, list[Bar]]:
    """Return what the bars show, and the bars: errors, because they begin at 0.

    Accuracies of 0.96 and 0.99 would look the same on an axis that begins at 0, and on another one
    lengths would mislead.
    """
    own = options[0]
    task = own.entry.task
    rows = []
    for option in options:
        score, (low, high) = option.score or 0.0, option.bounds
        if task.classes:
            score, low, high = 1 - score, *(None if v is None else 1 - v for v in (high, low))
        rows.append((option, score, low, high))
    longest = max((high or score for _, score, _, high in rows), default=0.0) or 1.0
    bars = []
    for option, score, low, high in rows:
        scale, digits = (100, 1) if task.classes else (1, 3)
        text = f"{score * scale:.{digits}f}"
        if task.classes:
            text = _say("share", share=text)
        if low is not None and high is not None:
            text += f" ({between(*(f'{end * scale:.{digits}f}' for end in (low, high)))})"
        ends = [None if end is None else end / longest for end in (low, high)]
        bars.append(Bar(option.name, text, score / longest, option.href, *ends))
    examples = f"{own.metric('test/examples') or 0:,.0f}"
    if not task.classes:
        return _say("rmse", examples=examples), bars
    return _say("wrong_folds" if own.folds else "wrong", examples=examples), bars


def _parameter_bars(options: Sequence[_Option]) -> tuple[str, list[Bar]]:
    counts = [option.cost("parameters") or 0.0 for option in options]
    longest = max(counts, default=0.0) or 1.0
    return _say("parameters"), [
        Bar(option.name, f"{count:,.0f}", count / longest, option.href)
        for option, count in zip(options, counts, strict=True)
    ]


def _say(key: str, **facts: object) -> str:
    """Return a sentence of the cards."""
    return tr(WORDS[key], **facts)


def _percent(score: float) -> str:
    return f"{score * 100:.1f} %"


def _p(value: float) -> str:
    return f"{value:.2g}" if value >= 0.001 else tr("less than {limit}", limit=0.001)
