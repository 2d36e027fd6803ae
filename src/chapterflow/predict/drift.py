"""Are these data like those that the model was tested on? Figures of each example, compared.

The measure is the population stability index (N. Siddiqi, "Credit Risk Scorecards", Wiley 2006):
the sum over bins of (observed - expected) * ln(observed / expected), shares of examples, in bins
that hold a tenth of the reference each. Below 0.1 counts as alike, from 0.25 on as strongly
shifted.
Those limits ignore how many examples there are: drawn from the same source, the index times
n * m / (n + m) is close to chi-squared with one degree of freedom less than bins (B. Yurdakul and
J. Naranjo, Journal of Risk Model Validation 14 (4), 2020), so few examples pass 0.1 by chance. What
chance alone exceeds once in a hundred times is told beside it, and a larger index asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from chapterflow.checks import Check, State, markdown
from chapterflow.environment import Project
from chapterflow.errors import DataError, StoreError
from chapterflow.kinds.dataset import Dataset, DatasetCard, open_dataset
from chapterflow.kinds.kind import get_kind
from chapterflow.tracking.artifacts import Artifacts
from chapterflow.tracking.versions import Version
from chapterflow.types import Strict

if TYPE_CHECKING:
    from mlflow import MlflowClient


def drift_markdown(done: Mapping[str, Any]) -> str:
    """Return the comparison with the test data as a table in markdown."""
    checks = [Drift.model_validate(figure).check for figure in done["figures"]]
    heading = f"{done['model']}: {done['examples']:,} examples against {done['reference']}."
    return f"{heading}\n\n{markdown(checks, COLUMNS)}"


#: Limits of the index.
SHIFTED, STRONGLY_SHIFTED = 0.1, 0.25
#: Fewer examples, here or in the reference, tell nothing.
ENOUGH = 50
#: Bins of figures that are no classes.
BINS = 10
#: How rarely chance alone may pass for a shift.
CHANCE = 0.01
ALIKE = "like the test data"
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
#: Headings of the verdicts, by field of `Check`.
COLUMNS = {"name": "figure", "observed": "PSI", "expected": "chance alone", "reading": "reading"}
PREDICTED = "predicted class"
#: Of every example by name, `(n,)`.
Figures = dict[str, NDArray[np.float64]]


class Drift(Strict):
    """One figure of these data against the reference.

    Attributes:
        psi: Population stability index; None where there is too little to compute it from.
        chance: What chance alone exceeds once in a hundred times.
        why: What is missing, where something is.
        bins: What each bin holds.
        expected: Share of the reference in each bin.
        observed: Share of these data in each bin.
    """

    name: str
    reading: Reading
    psi: float | None = None
    chance: float | None = None
    why: str | None = None
    bins: list[str] = Field(default_factory=list)
    expected: list[float] = Field(default_factory=list)
    observed: list[float] = Field(default_factory=list)

    @property
    def check(self) -> Check:
        """The verdict on the figure: the index, and what chance alone exceeds."""
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
    """What data are compared with.

    Attributes:
        what: In words.
        figures: Of its examples, by name.
        missing: Why a figure is not there, by name.
    """

    what: str
    figures: Figures
    missing: Mapping[str, str]


def input_figures(kind: str, inputs: Any) -> Figures:
    """Return the figures of raw inputs that the kind of data compares, by name."""
    return {name: figure(inputs) for name, figure in get_kind(kind).figures.items()}


def answer_figures(answers: NDArray[np.float32], *, classes: bool) -> Figures:
    """Return figures of a model's answers.

    Args:
        answers: Probabilities `(n, classes)`, or smoothed curves `(n, length, 1)`.
        classes: Which of both.
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


class Tally:
    """Counts one figure in the reference's bins, as examples come by."""

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
        """Return what came out."""
        n, m = int(self._observed.sum()), int(self._expected.sum())
        shown: dict[str, Any] = {
            "bins": self._bins,
            "expected": (self._expected / max(m, 1)).tolist(),
            "observed": (self._observed / max(n, 1)).tolist(),
        }
        if self._why or not m:
            return Drift(name=self._name, reading="unavailable", why=self._why or "no reference")
        if min(n, m) < ENOUGH:
            few = f"{n} here" if n < ENOUGH else f"{m} in the reference"
            why = f"{few}, {ENOUGH} are needed"
            return Drift(name=self._name, reading="too few examples to tell", why=why, **shown)
        from scipy.stats import chi2

        psi = stability_index(self._expected, self._observed)
        freedom = max(len(self._bins) - 1, 1)
        chance = float(chi2.ppf(1 - CHANCE, freedom)) * (1 / n + 1 / m)
        return Drift(
            name=self._name, reading=_reading(psi, chance), psi=psi, chance=chance, **shown
        )

    def _counts(self, values: NDArray[Any]) -> NDArray[np.int64]:
        places = np.searchsorted(self._edges, values, side="left")
        return np.bincount(places, minlength=len(self._bins)).astype(np.int64)


def stability_index(expected: NDArray[Any], observed: NDArray[Any]) -> float:
    """Return the population stability index of counts in the same bins.

    Half an example is added to each bin, so that an empty one gives no infinity.
    """
    shares = [
        (counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (expected, observed)
    ]
    return float(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))


def overall(drifts: list[Drift]) -> Reading:
    """Return the worst reading of all."""
    order: tuple[Reading, ...] = (
        "strongly shifted",
        "shifted",
        "too few examples to tell",
        "like the test data",
    )
    readings = {drift.reading for drift in drifts}
    return next((reading for reading in order if reading in readings), "unavailable")


def _reading(psi: float, chance: float) -> Reading:
    if psi < SHIFTED:
        return "like the test data"
    if psi <= chance:
        return "too few examples to tell"
    return "shifted" if psi < STRONGLY_SHIFTED else "strongly shifted"


def _edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the upper edges of all bins but the last: deciles, fewer where values repeat."""
    if not len(values):
        return np.empty(0)
    edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1], method="lower"))
    found: NDArray[np.float64] = edges[edges < values.max()]
    return found


def _bin_names(edges: NDArray[np.float64]) -> list[str]:
    told = [f"{edge:.3g}" for edge in edges]
    if not told:
        return ["all"]
    between = [f"{low} to {high}" for low, high in pairwise(told)]
    return [f"up to {told[0]}", *between, f"above {told[-1]}"]


#: Test examples whose inputs are looked at, evenly spaced; decoding thousands of photos takes long.
EXAMPLES = 2000
#: Examples that are read at once.
AT_ONCE = 64


def read_reference(
    client: MlflowClient,
    project: Project,
    version: Version,
    card: DatasetCard,
    size: tuple[int, int],
) -> Reference:
    """Return figures of the test split that a version was scored on.

    Answers come from the run that trained it. Inputs come from the dataset, if the very same one is
    on this machine; else their figures are missing, and it is said why.

    Args:
        card: Of the data that the version learnt.
        size: Height and width at which it reads photos.
    """
    figures: Figures = {}
    missing: dict[str, str] = {}
    figures |= _answers(client, version, card, missing)
    try:
        figures |= _inputs(project, card, size)
    except DataError as error:
        reason = str(error).partition("\n")[0]
        missing |= dict.fromkeys(input_names(card), reason)
    what = f"the {card.counts.get('test', 0)} test examples of {card.name}"
    return Reference(what, figures, missing)


def input_names(card: DatasetCard) -> list[str]:
    """Return the names of the figures of inputs of a kind of data."""
    return list(get_kind(card.kind).figures)


def _answers(
    client: MlflowClient, version: Version, card: DatasetCard, missing: dict[str, str]
) -> Figures:

    names = [*answer_figures(np.ones((1, 1), np.float32), classes=card.task.classes)]
    try:
        answers = Artifacts(version.run_id).predictions()[card.task.answer]
    except (StoreError, KeyError) as error:
        missing |= dict.fromkeys(names, f"the predictions on the test split are lost ({error})")
        return {}
    return answer_figures(answers, classes=card.task.classes)


def _inputs(project: Project, card: DatasetCard, size: tuple[int, int]) -> Figures:
    """Return figures of the test inputs.

    Raises:
        DataError: If the dataset is not here, is another one, or is damaged.
    """
    if not input_names(card):
        return {}
    dataset: Dataset = open_dataset(project.data / card.name).sized(*size)
    if dataset.card.digest != card.digest:
        raise DataError(f"data/{card.name} is another one than the version learnt")
    test = dataset.indices("test")
    if not len(test):
        raise DataError(f"{card.name} has no test examples")
    chosen = test[np.unique(np.linspace(0, len(test) - 1, min(len(test), EXAMPLES), dtype=int))]
    parts = [
        input_figures(card.kind, dataset.inputs(chosen[start : start + AT_ONCE]))
        for start in range(0, len(chosen), AT_ONCE)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in input_names(card)}


EXPECTED, OBSERVED = "#9aa5b8", "#d9622b"
#: More labels than that under one panel are drawn slanted.
LEVEL = 6


def draw_drift(drifts: Sequence[Drift], title: str, path: Path) -> bool:
    """Draw the shares of all figures that have some, reference beside these data.

    Args:
        drifts: What was compared.
        title: Heading.
        path: Image to write.

    Returns:
        Whether there was something to draw.
    """
    from matplotlib.figure import Figure

    drawn = [drift for drift in drifts if drift.bins and sum(drift.observed)]
    if not drawn:
        return False
    columns = min(2, len(drawn))
    lines = -(-len(drawn) // columns)
    widest = max(len(drift.bins) for drift in drawn)
    figure = Figure(
        figsize=(columns * max(4.6, 0.42 * widest + 1), 3.4 * lines + 0.6), layout="constrained"
    )
    figure.suptitle(title)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, drift in zip(panels, drawn, strict=False):
        places = np.arange(len(drift.bins))
        axes.bar(places - 0.2, drift.expected, 0.4, color=EXPECTED, label="test data")
        axes.bar(places + 0.2, drift.observed, 0.4, color=OBSERVED, label="these data")
        long = len(drift.bins) > LEVEL and max(map(len, drift.bins)) > 3
        axes.set_xticks(
            places,
            drift.bins,
            rotation=40 if long else 0,
            ha="right" if long else "center",
            rotation_mode="anchor" if long else None,
            fontsize=8,
        )
        index = "" if drift.psi is None else f", PSI {drift.psi:.2f}"
        told = drift.reading if drift.why is None else f"{drift.reading} ({drift.why})"
        axes.set_title(
            f"{drift.name}{index}\n{told}",
            fontsize=10,
            color="black" if drift.psi is None or drift.reading == ALIKE else "#b02a1a",
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
