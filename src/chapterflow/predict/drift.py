"""Drift: whether figures of a batch are distributed as in the data that the model was tested on.

The measure is the population stability index (N. Siddiqi, "Credit Risk Scorecards", Wiley 2006):
the sum of (observed - expected) * ln(observed / expected) over bins, where both are shares of the
examples and each bin holds a tenth of the reference. Below 0.1 the distributions count as equal,
from 0.25 as strongly shifted.
These limits ignore the number of examples. For two samples of one distribution, the index times
n * m / (n + m) is close to chi-squared with one degree of freedom less than there are bins (B.
Yurdakul and J. Naranjo, Journal of Risk Model Validation 14 (4), 2020), so small samples exceed 0.1
by chance. Each verdict therefore states the index that chance alone exceeds once in a hundred
times, and a shift must exceed it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from chapterflow.checks import Check, State, markdown
from chapterflow.config.settings import Settings
from chapterflow.environment import Project
from chapterflow.errors import DataError, StoreError
from chapterflow.fonts import families
from chapterflow.kinds.dataset import DatasetCard, get_kind, open_dataset
from chapterflow.tracking import runs
from chapterflow.tracking.artifacts import Artifacts
from chapterflow.tracking.session import Session
from chapterflow.tracking.versions import Version
from chapterflow.types import Strict

#: Limits of the index.
SHIFTED, STRONGLY_SHIFTED = 0.1, 0.25
#: Fewest examples, of the batch and of the reference, for a verdict.
ENOUGH = 50
#: Number of bins of a figure, other than the predicted class.
BINS = 10
#: How often chance alone may exceed the index that a verdict states.
CHANCE = 0.01
#: Most test examples whose inputs are read, evenly spaced: decoding thousands of photos takes long.
EXAMPLES = 2000
#: Test examples that are read at once.
AT_ONCE = 64
#: Artifact of a batch's run with its verdicts, and the tag with the hash of its inputs.
DOCUMENT, INPUTS = "drift.json", "chapterflow.inputs_sha256"
#: Figure with a bin for each class.
PREDICTED = "predicted class"
#: Values for every example, `(n,)`, by name.
Figures = dict[str, NDArray[np.float64]]
Reading = Literal[
    "like the test data",
    "too few examples to tell",
    "shifted",
    "strongly shifted",
    "unavailable",
]
STATES: Mapping[Reading, State] = {
    "like the test data": "passed",
    "too few examples to tell": "unknown",
    "shifted": "warning",
    "strongly shifted": "failed",
    "unavailable": "unknown",
}
#: From the worst on; a batch has the worst reading of its figures.
_ORDER: tuple[Reading, ...] = (
    "strongly shifted",
    "shifted",
    "too few examples to tell",
    "like the test data",
)
#: Headings of the verdicts, by field of `Check`.
COLUMNS = {"name": "figure", "observed": "PSI", "expected": "chance alone", "reading": "reading"}
_EXPECTED_COLOUR, _OBSERVED_COLOUR, _SHIFTED_COLOUR = "#9aa5b8", "#d9622b", "#b02a1a"
#: More labels than this below one panel are slanted.
_LEVEL_LABELS = 6


class Drift(Strict):
    """The verdict on one figure of a batch.

    Attributes:
        psi: Population stability index; None if it cannot be computed.
        chance: Index that chance alone exceeds once in a hundred times.
        why: What is missing, if the reading is not a comparison.
        bins: Name of each bin.
        expected: Share of the reference in each bin.
        observed: Share of the batch in each bin.
        examples: Number of examples of the batch.
        references: Number of examples of the reference.
    """

    name: str
    reading: Reading
    psi: float | None = None
    chance: float | None = None
    why: str | None = None
    bins: list[str] = Field(default_factory=list)
    expected: list[float] = Field(default_factory=list)
    observed: list[float] = Field(default_factory=list)
    examples: int = 0
    references: int = 0

    @property
    def check(self) -> Check:
        """The verdict: the index, and the one that chance alone exceeds."""
        return Check(
            name=self.name,
            state=STATES[self.reading],
            expected=self.chance,
            observed=self.psi,
            reason=self.why or "",
            details={"reading": self.reading},
        )


@dataclass(frozen=True)
class Reference:
    """Figures of the data that a batch is compared with.

    Attributes:
        what: The data, in words.
        figures: Of its examples, by name.
        missing: Why a figure is missing, by name.
    """

    what: str
    figures: Figures
    missing: Mapping[str, str]


def input_figures(kind: str, inputs: Any) -> Figures:
    """Return the figures of raw inputs that the kind of data compares, by name."""
    return {name: figure(inputs) for name, figure in get_kind(kind).figures.items()}


def answer_figures(answers: NDArray[np.float32], *, classes: bool) -> Figures:
    """Return the figures of a model's answers, by name.

    Args:
        answers: Probabilities `(n, classes)`, or smoothed curves `(n, length, 1)`.
        classes: Whether they are probabilities.
    """
    if classes:
        return {
            PREDICTED: answers.argmax(1).astype(np.float64),
            # Most answers of a good model are nearly certain: finer steps would be rounding.
            "confidence": np.round(answers.max(1).astype(np.float64), 3),
        }
    flat = answers.reshape(len(answers), -1)
    return {
        "output mean": flat.mean(1, dtype=np.float64),
        "output spread": flat.std(1, dtype=np.float64),
    }


def read_reference(
    project: Project, version: Version, card: DatasetCard, size: tuple[int, int]
) -> Reference:
    """Return the figures of the test split that a version was scored on.

    The answers come from the run that trained it. The inputs come from the dataset, if exactly that
    dataset is on this machine; otherwise their figures are missing.

    Args:
        card: Of the data that the version was trained on.
        size: Height and width of the photos that it reads.
    """
    figures: Figures = {}
    missing: dict[str, str] = {}
    try:
        answers = Artifacts(version.run_id).predictions()[card.task.answer]
        figures |= answer_figures(answers, classes=card.task.classes)
    except (StoreError, KeyError) as error:
        names = answer_figures(np.ones((1, 1), np.float32), classes=card.task.classes)
        missing |= dict.fromkeys(names, f"the predictions on the test split are lost ({error})")
    try:
        figures |= _test_input_figures(project, card, size)
    except DataError as error:
        reason = str(error).partition("\n")[0]
        missing |= dict.fromkeys(get_kind(card.kind).figures, reason)
    what = f"the {card.counts.get('test', 0)} test examples of {card.name}"
    return Reference(what, figures, missing)


def _test_input_figures(project: Project, card: DatasetCard, size: tuple[int, int]) -> Figures:
    """Return the figures of the test inputs.

    Raises:
        DataError: If the dataset is missing, damaged, or not the one of the card.
    """
    names = list(get_kind(card.kind).figures)
    if not names:
        return {}
    dataset = open_dataset(project.data / card.name).sized(*size)
    if dataset.card.digest != card.digest:
        raise DataError(f"data/{card.name} differs from the data that the model was trained on")
    test = dataset.indices("test")
    if not len(test):
        raise DataError(f"{card.name} has no test examples")
    chosen = test[np.unique(np.linspace(0, len(test) - 1, min(len(test), EXAMPLES), dtype=int))]
    parts = [
        input_figures(card.kind, dataset.inputs(chosen[start : start + AT_ONCE]))
        for start in range(0, len(chosen), AT_ONCE)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


class Tally:
    """Counts the examples of a batch in the bins of one figure of the reference."""

    def __init__(self, name: str, reference: Reference, classes: list[str]) -> None:
        self._name = name
        self._why = reference.missing.get(name)
        values = reference.figures.get(name, np.empty(0))
        if name == PREDICTED:
            self._edges = np.arange(len(classes) - 1, dtype=np.float64)
            self._bins = list(classes)
        else:
            self._edges = _edges(values)
            self._bins = _bin_names(self._edges)
        self._expected = self._counts(values)
        self._observed = np.zeros(len(self._bins), np.int64)

    def add(self, values: NDArray[Any]) -> None:
        """Count some examples."""
        self._observed += self._counts(values)

    def result(self) -> Drift:
        """Return the verdict on all examples counted so far."""
        return verdict(self._name, self._bins, self._expected, self._observed, self._why)

    def _counts(self, values: NDArray[Any]) -> NDArray[np.int64]:
        places = np.searchsorted(self._edges, values, side="left")
        return np.bincount(places, minlength=len(self._bins)).astype(np.int64)


def verdict(
    name: str,
    bins: list[str],
    expected: NDArray[Any],
    observed: NDArray[Any],
    why: str | None = None,
) -> Drift:
    """Return the verdict on counts in the same bins.

    Args:
        expected: Counts of the reference.
        observed: Counts of the batch.
        why: Why the reference is missing.
    """
    n, m = int(observed.sum()), int(expected.sum())
    shares: dict[str, Any] = {
        "bins": bins,
        "expected": (expected / max(m, 1)).tolist(),
        "observed": (observed / max(n, 1)).tolist(),
        "examples": n,
        "references": m,
    }
    if why or not m:
        return Drift(name=name, reading="unavailable", why=why or "no reference")
    if min(n, m) < ENOUGH:
        few = f"{n} here" if n < ENOUGH else f"{m} in the reference"
        return Drift(
            name=name,
            reading="too few examples to tell",
            why=f"{few}, {ENOUGH} are needed",
            **shares,
        )
    from scipy.stats import chi2

    psi = stability_index(expected, observed)
    freedom = max(len(bins) - 1, 1)
    chance = float(chi2.ppf(1 - CHANCE, freedom)) * (1 / n + 1 / m)
    return Drift(name=name, reading=_reading(psi, chance), psi=psi, chance=chance, **shares)


def pooled(batches: Sequence[Sequence[Drift]]) -> list[Drift]:
    """Return the verdicts on all batches of one version together.

    Batches too small for a verdict add up to one. Those that were compared in other bins, or
    logged by a version of this code that kept no counts, are left out.

    Args:
        batches: Verdicts on each batch, the newest first.
    """
    figures: dict[str, list[Drift]] = {}
    for drift in (drift for batch in batches for drift in batch):
        if drift.examples and drift.references:
            figures.setdefault(drift.name, []).append(drift)
    pools = []
    for name, drifts in figures.items():
        newest = drifts[0]
        same = [d for d in drifts if (d.bins, d.expected) == (newest.bins, newest.expected)]
        observed = sum(np.rint(np.multiply(d.observed, d.examples)) for d in same)
        expected = np.rint(np.multiply(newest.expected, newest.references))
        pools.append(verdict(name, newest.bins, expected, np.asarray(observed)))
    return pools


class RecentDrift(Strict):
    """Drift of what one version predicted lately.

    Attributes:
        model: Name and number of the version.
        batches: Number of batches, each counted once however often it was predicted.
        reading: Worst reading of all figures.
        figures: Verdicts on all batches together.
    """

    model: str
    batches: int
    examples: int
    reading: Reading
    figures: list[Drift]

    @property
    def summary(self) -> str:
        """The reading, and the figures that have shifted."""
        shifted = [f"{d.name} (PSI {d.psi:.2f})" for d in self.figures if d.psi and _shifted(d)]
        text = f"{self.examples:,} inputs in {self.batches} batches: {self.reading}"
        return f"{text}: {', '.join(shifted)}" if shifted else text


def _shifted(drift: Drift) -> bool:
    return drift.reading in ("shifted", "strongly shifted")


def recent_drift(project: Project, settings: Settings, *, days: float) -> list[RecentDrift]:
    """Return the drift of the inputs and predictions of the last days, by version.

    Of each registered model, it covers the version that predicted last.
    """
    since = int((time.time() - days * 24 * 3600) * 1000)
    with Session(project, settings, reading=True) as session:
        batches = runs.batches_since(session.client, session.experiment_id, since)
        versions: dict[str, str] = {}
        by_version: dict[str, dict[str, str]] = {}
        for run in batches:
            uri = run.data.tags[runs.MODEL_URI].removeprefix("models:/")
            if versions.setdefault(uri.partition("/")[0], uri) == uri:
                inputs = run.data.tags.get(INPUTS, run.info.run_id)
                by_version.setdefault(uri, {}).setdefault(inputs, run.info.run_id)
        recent = []
        for uri, run_ids in by_version.items():
            documents = []
            for run_id in run_ids.values():
                with contextlib.suppress(StoreError):  # it has been removed, or never had one
                    documents.append(Artifacts(run_id).document(DOCUMENT))
            figures = pooled(
                [[Drift.model_validate(d) for d in document["figures"]] for document in documents]
            )
            if figures:
                recent.append(
                    RecentDrift(
                        model=uri,
                        batches=len(documents),
                        examples=max(figure.examples for figure in figures),
                        reading=overall(figures),
                        figures=figures,
                    )
                )
    return recent


def stability_index(expected: NDArray[Any], observed: NDArray[Any]) -> float:
    """Return the population stability index of counts in the same bins.

    Half an example is added to each bin, so an empty bin does not make the index infinite.
    """
    shares = [
        (counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (expected, observed)
    ]
    return float(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))


def overall(drifts: list[Drift]) -> Reading:
    """Return the worst reading of all."""
    readings = {drift.reading for drift in drifts}
    return next((reading for reading in _ORDER if reading in readings), "unavailable")


def _reading(psi: float, chance: float) -> Reading:
    if psi < SHIFTED:
        return "like the test data"
    if psi <= chance:
        return "too few examples to tell"
    return "shifted" if psi < STRONGLY_SHIFTED else "strongly shifted"


def _edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the upper edges of all bins but the last: deciles, fewer if values repeat."""
    if not len(values):
        return np.empty(0)
    deciles = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1], method="lower"))
    edges: NDArray[np.float64] = deciles[deciles < values.max()]
    return edges


def _bin_names(edges: NDArray[np.float64]) -> list[str]:
    numbers = [f"{edge:.3g}" for edge in edges]
    if not numbers:
        return ["all"]
    between = [f"{low} to {high}" for low, high in pairwise(numbers)]
    return [f"up to {numbers[0]}", *between, f"above {numbers[-1]}"]


def drift_markdown(predicted: Mapping[str, Any]) -> str:
    """Return the verdicts on a batch, given as a document, as a table in Markdown."""
    checks = [Drift.model_validate(figure).check for figure in predicted["figures"]]
    heading = (
        f"{predicted['model']}: {predicted['examples']:,} examples against "
        f"{predicted['reference']}."
    )
    return f"{heading}\n\n{markdown(checks, COLUMNS)}"


def draw_drift(drifts: Sequence[Drift], title: str, path: Path) -> bool:
    """Draw the shares of each figure in its bins, reference and batch next to each other.

    Args:
        title: Heading.
        path: Image to write.

    Returns:
        Whether there was a figure with shares to draw.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    drawn = [drift for drift in drifts if drift.bins and sum(drift.observed)]
    if not drawn:
        return False
    columns = min(2, len(drawn))
    lines = -(-len(drawn) // columns)
    widest = max(len(drift.bins) for drift in drawn)
    texts = [title, *(name for drift in drawn for name in (drift.name, *drift.bins))]
    with mpl.rc_context({"font.family": families(texts)}):
        figure = Figure(
            figsize=(columns * max(4.6, 0.42 * widest + 1), 3.4 * lines + 0.6), layout="constrained"
        )
        figure.suptitle(title)
        panels = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes, drift in zip(panels, drawn, strict=False):
            places = np.arange(len(drift.bins))
            axes.bar(places - 0.2, drift.expected, 0.4, color=_EXPECTED_COLOUR, label="test data")
            axes.bar(places + 0.2, drift.observed, 0.4, color=_OBSERVED_COLOUR, label="these data")
            long = len(drift.bins) > _LEVEL_LABELS and max(map(len, drift.bins)) > 3
            axes.set_xticks(
                places,
                drift.bins,
                rotation=40 if long else 0,
                ha="right" if long else "center",
                rotation_mode="anchor" if long else None,
                fontsize=8,
            )
            index = "" if drift.psi is None else f", PSI {drift.psi:.2f}"
            reason = "" if drift.why is None else f" ({drift.why})"
            unshifted = drift.psi is None or STATES[drift.reading] == "passed"
            axes.set_title(
                f"{drift.name}{index}\n{drift.reading}{reason}",
                fontsize=10,
                color="black" if unshifted else _SHIFTED_COLOUR,
            )
            axes.set_ylabel("share")
            axes.grid(axis="y", alpha=0.3)
            axes.set_axisbelow(True)
        for axes in panels[len(drawn) :]:
            axes.set_visible(False)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
        figure.savefig(path, dpi=110)
    return True
