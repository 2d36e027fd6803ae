"""The comparison with the test data as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from chapterflow.batch.drift import ALIKE, Drift

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
