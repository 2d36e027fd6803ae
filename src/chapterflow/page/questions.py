"""The chapter's own questions, answered from the runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chapterflow.page.material import Entry, Material
from chapterflow.page.parts import Cell, Table, interval, number, ratio, times


@dataclass(frozen=True)
class Question:
    """A question of the chapter with its answer; no table where the runs for it are missing."""

    title: str
    anchor: str
    answer: str
    table: Table | None = None


def questions(material: Material) -> list[Question]:
    """Return the chapter's questions, each with what the runs answer."""
    return [
        _dense_or_convolution(material),
        _one_by_one(material),
        _transfer(material),
        _readouts(material),
    ]


def _missing(title: str, anchor: str, models: str) -> Question:
    return Question(
        title,
        anchor,
        f"The runs for this are not on this page: `chapterflow run {models}` makes them.",
    )


def _dense_or_convolution(material: Material) -> Question:
    title, anchor = "Dense network or convolution?", "question-dnn-cnn"
    # Two models are compared on one test set or not at all.
    pairs = [
        (here["dnn"], here["cnn"])
        for group in material.by_test_set()
        if {"dnn", "cnn"} <= (here := {entry.facts.model: entry for entry in group}).keys()
    ]
    if not pairs:
        return _missing(title, anchor, "dnn cnn")
    dense, convolution = pairs[0]
    rows = []
    for name, key, digits in (
        ("training time (s)", "train/seconds", 2),
        ("epochs", "train/epochs", 0),
        ("log-loss", "test/log_loss", 4),
        ("accuracy", "test/accuracy", 4),
        ("errors on the test split", "", 0),
        ("parameters", "cost/parameters", 0),
        ("MFLOPs an example", "cost/flops", 3),
        ("latency (ms an example)", "cost/latency_ms_median", 2),
    ):
        pair = []
        for entry in pairs[0]:
            value = entry.metric(key)
            if not key:
                wrong = (entry.metric("test/examples") or 0) - (entry.metric("test/correct") or 0)
                value = wrong
            pair.append(value / 1e6 if key == "cost/flops" and value is not None else value)
        rows.append(
            [
                Cell(name),
                number(pair[0], digits),
                number(pair[1], digits),
                times(ratio(pair[1], pair[0])),
            ]
        )
    found = next(
        (p for p in material.differences if {p.a, p.b} == {dense.label, convolution.label}), None
    )
    answer = ""
    if found is not None:
        sign = 1 if found.b == convolution.label else -1
        low, high = sorted((sign * found.low, sign * found.high))
        real = (
            "a real difference" if "better" in found.verdict else "not shown to be more than luck"
        )
        answer = (
            f"CNN minus DNN: {sign * found.accuracy_difference * 100:+.2f} percentage points of "
            f"accuracy on the same {found.examples:,} images (95 % interval {low * 100:+.2f} to "
            f"{high * 100:+.2f}), {real} "
            f"(McNemar p = {found.p_value:.3g}, after Holm {found.p_adjusted:.3g})."
        )
    slower = ratio(convolution.metric("train/seconds"), dense.metric("train/seconds"))
    if slower is not None:
        answer += f" The CNN trains {slower:.2f} times as long."
    return Question(
        title,
        anchor,
        answer.strip(),
        Table(f"DNN against CNN on {dense.facts.dataset}", ["", "DNN", "CNN", "CNN of DNN"], rows,
              [False, True, True, True], sortable=False, small=True),
    )  # fmt: skip


def _one_by_one(material: Material) -> Question:
    title, anchor = "What does the 1×1 convolution save?", "question-1x1"
    entry = material.model("googlenet")
    if entry is None or entry.metric("beside/without_1x1/parameters") is None:
        return _missing(title, anchor, "googlenet")
    rows = []
    for name, key, unit, digits in (
        ("parameters", "parameters", 1.0, 0),
        ("MFLOPs an example", "flops", 1e6, 3),
    ):
        own, other = entry.metric(f"cost/{key}"), entry.metric(f"beside/without_1x1/{key}")
        rows.append(
            [
                Cell(name),
                number(None if own is None else own / unit, digits),
                number(None if other is None else other / unit, digits),
                times(ratio(other, own)),
            ]
        )
    accuracy = entry.metric("beside/without_1x1/accuracy")
    if accuracy is not None:
        rows.append(
            [Cell("accuracy"), number(entry.metric("test/accuracy"), 4), number(accuracy, 4),
             times(ratio(accuracy, entry.metric("test/accuracy")))]
        )  # fmt: skip
    params = ratio(entry.metric("beside/without_1x1/parameters"), entry.metric("cost/parameters"))
    flops = ratio(entry.metric("beside/without_1x1/flops"), entry.metric("cost/flops"))
    answer = (
        f"Without the 1×1 convolutions in front of the larger kernels the same modules need "
        f"{params or 0:.1f} times the parameters and {flops or 0:.1f} times the operations."
    )
    if accuracy is None:
        answer += " The variant without them was counted, not trained."
    return Question(title, anchor, answer, Table(
        f"GoogLeNet's modules on {entry.facts.dataset}, with and without 1×1 reductions",
        ["", "with 1×1", "without", "without of with"], rows, [False, True, True, True],
        sortable=False, small=True,
    ))  # fmt: skip


def _beside(entry: Entry, prefix: str) -> list[str]:
    """Return the names of the variants beside a model that begin so, in their order."""
    names = [key.split("/")[1] for key in entry.facts.metrics if key.startswith(f"beside/{prefix}")]
    return sorted(dict.fromkeys(names))


def _variant_rows(entry: Entry, own: str, names: Sequence[str]) -> list[list[Cell]]:
    """Return rows of score, interval, training time and parameters of a model and its variants."""
    rows = []
    for told, prefix, seconds, cost in [
        (own, "test", "train/seconds", "cost"),
        *(
            (n.replace("_", " "), f"beside/{n}", f"beside/{n}/train_seconds", f"beside/{n}")
            for n in names
        ),
    ]:
        m = entry.metric
        rows.append(
            [
                Cell(told),
                number(m(f"{prefix}/accuracy"), 4),
                interval(m(f"{prefix}/accuracy_low"), m(f"{prefix}/accuracy_high"), 3),
                number(m(seconds), 1),
                number(m(f"{cost}/parameters"), 0),
            ]
        )
    return rows


VARIANT_HEADINGS = ["", "accuracy", "95 % interval", "training time (s)", "parameters"]


def _transfer(material: Material) -> Question:
    title, anchor = "Transfer, or from scratch?", "question-transfer"
    entry = material.model("transfer")
    names = _beside(entry, "from_scratch") if entry else []
    if entry is None or not names:
        return _missing(title, anchor, "transfer")
    own = entry.metric("test/accuracy") or 0.0
    told = []
    for name in names:
        other, seconds = (entry.metric(f"beside/{name}/{k}") for k in ("accuracy", "train_seconds"))
        if other is None:
            continue
        low, high = (entry.metric(f"test/accuracy_{end}") or own for end in ("low", "high"))
        apart = (entry.metric(f"beside/{name}/accuracy_high") or other) < low or (
            entry.metric(f"beside/{name}/accuracy_low") or other
        ) > high
        slower = ratio(seconds, entry.metric("train/seconds"))
        told.append(
            f"{name.replace('_', ' ')}: {other:.4f} ({(other - own) * 100:+.1f} points"
            + (f", {slower:.1f} times the training time" if slower is not None else "")
            + f"; intervals {'apart' if apart else 'overlap'})"
        )
    answer = (
        f"The frozen backbone with a new head reaches {own:.4f}. The same network "
        + "; ".join(told)
        + "."
    )
    return Question(title, anchor, answer, Table(
        f"Transfer and training from scratch on {entry.facts.dataset}: same data, same seed",
        VARIANT_HEADINGS, _variant_rows(entry, "transfer", names),
        [False, True, True, True, True], small=True,
    ))  # fmt: skip


def _readouts(material: Material) -> Question:
    title, anchor = "Which readout for graphs?", "question-readout"
    entry = material.model("gcn")
    names = [*_beside(entry, "readout"), *_beside(entry, "structure_blind")] if entry else []
    if entry is None or not names:
        return _missing(title, anchor, "gcn")
    readout = entry.facts.params.get("readout", "own")
    rows = _variant_rows(entry, f"readout {readout} (the model)", names)
    majority = entry.metric("baseline/majority_accuracy")
    if majority is not None:
        rows.append([Cell("majority class"), number(majority, 4), *(number(None, 0),) * 3])
    blind = entry.metric("beside/structure_blind/accuracy")
    own = entry.metric("test/accuracy") or 0.0
    scored = {f"readout {readout}": "test"} | {
        name.replace("_", " "): f"beside/{name}"
        for name in names
        if name.startswith("readout") and entry.metric(f"beside/{name}/accuracy") is not None
    }
    best = max(scored, key=lambda name: entry.metric(f"{scored[name]}/accuracy") or 0.0)
    answer = (
        f"The best score is that of {best}, {entry.metric(f'{scored[best]}/accuracy') or 0.0:.4f}, "
        f"on {entry.metric('test/examples') or 0:,.0f} test graphs"
    )
    low = entry.metric(f"{scored[best]}/accuracy_low") or 0.0
    apart = [
        name
        for name, prefix in scored.items()
        if name != best and (entry.metric(f"{prefix}/accuracy_high") or 1.0) < low
    ]
    answer += (
        f"; its interval is apart from that of {', '.join(apart)}."
        if apart
        else "; the intervals of all readouts overlap."
    )
    if blind is not None:
        answer += (
            f" The same network blind to edges reaches {blind:.4f}: structure adds "
            f"{(own - blind) * 100:+.1f} points."
        )
    return Question(title, anchor, answer, Table(
        f"Readouts of gcn on {entry.facts.dataset}: same data, same seed",
        VARIANT_HEADINGS, rows, [False, True, True, True, True], small=True,
    ))  # fmt: skip
