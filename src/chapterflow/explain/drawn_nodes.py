"""The picture of graphs whose nodes are coloured by what they speak for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.explain.canvas import GREY, RED, Canvas
from chapterflow.explain.faithfulness import Faithfulness
from chapterflow.explain.node_probes import NodeProbe
from chapterflow.explain.overlays import score_text
from chapterflow.explain.tiles import coloured

TILE, GAP, NAMES, MARGIN, HEADING, COLUMN, LINE = 330, 30, 195, 20, 80, 46, 34
#: Graphs of so many nodes or fewer have their nodes numbered.
NUMBERED = 40


def draw_nodes(
    given: Sequence[NodeProbe],
    maps: Mapping[str, NDArray[Any]],
    title: str,
    path: Path,
    *,
    captions: Sequence[str],
    faithful: Mapping[str, Faithfulness],
    doubts: Mapping[str, Sequence[str]],
    seed: int,
) -> None:
    """Draw a row for each graph, a column for each method.

    Args:
        given: The graphs.
        maps: Values of the nodes `(graphs, nodes)` by method.
        title: Heading.
        path: Image to write.
        captions: What each graph is and what the model says.
        faithful: How the maps fare, by method.
        doubts: What speaks against each method.
        seed: Of the layout.
    """
    top = MARGIN + HEADING + COLUMN
    width = max(820, 2 * MARGIN + NAMES + len(maps) * (TILE + GAP))
    canvas = Canvas(width, top + len(given) * (TILE + LINE) + 6)
    ring = any(one.focus is not None for one in given)
    canvas.text(MARGIN, MARGIN, title, size=12)
    canvas.text(
        MARGIN,
        MARGIN + 26,
        "Red nodes raise the class that the model says, blue ones lower it; each graph has its own "
        f"scale.{' Black ring: the node whose class it is.' if ring else ''}\n"
        "del: area under its probability while the nodes marked most go first (low is good); ins: "
        "while they come first (high is good).",
        color=GREY,
    )
    for column, name in enumerate(maps):
        x = MARGIN + NAMES + column * (TILE + GAP) + TILE / 2
        canvas.text(x, top - COLUMN + 6, name, size=10, ha="center", weight="bold")
        said = ", ".join(doubts.get(name, ()))
        if said:
            canvas.text(x, top - COLUMN + 23, said, size=8, ha="center", color=RED)
    for number, probe in enumerate(given):
        y = top + number * (TILE + LINE)
        canvas.text(MARGIN, y + TILE / 2, captions[number], va="center")
        shown = probe.free.copy()
        if probe.focus is not None:
            shown[probe.focus] = True
        places = layout(probe, shown, seed)
        edges = np.argwhere(np.triu((probe.adjacency + probe.adjacency.T)[np.ix_(shown, shown)], 1))
        for column, (name, values) in enumerate(maps.items()):
            x = MARGIN + NAMES + column * (TILE + GAP)
            own = values[number, : len(probe.nodes)][shown]
            limit = float(np.abs(own).max())
            colours = coloured(own, -limit, limit, "bwr") / 255.0
            at = places * TILE + (x, y)
            size = float(np.clip(2400 / len(at), 14, 110))
            canvas.graph(at, edges, colours, size)
            if probe.focus is not None:
                inside = int(shown[: probe.focus].sum())
                canvas.ring(at[inside], size * 1.6)
            if len(at) <= NUMBERED:
                for (px, py), node in zip(at, probe.nodes[shown], strict=True):
                    canvas.text(px, py, str(node), size=6, ha="center", va="center")
            text, colour = score_text(faithful[name], number)
            text = text.replace("\n", ": ")
            canvas.text(x + TILE / 2, y + TILE + 6, text, size=8, ha="center", color=colour)
    canvas.save(path)


def layout(probe: NodeProbe, shown: NDArray[np.bool_], seed: int) -> NDArray[Any]:
    """Return places in the unit square `(n, 2)`, linked nodes near each other."""
    import networkx

    graph = networkx.from_numpy_array(probe.adjacency[np.ix_(shown, shown)] != 0)
    # What is linked to nothing would drift so far away that the rest is drawn tiny.
    first, *others = sorted(networkx.connected_components(graph), key=len, reverse=True)
    for other in others:
        graph.add_edge(min(first), min(other))
    found = networkx.spring_layout(graph, seed=seed, iterations=60)
    places = np.array([found[node] for node in range(len(found))])
    low, high = places.min(axis=0), places.max(axis=0)
    return np.asarray(0.03 + 0.94 * (places - low) / np.where(high > low, high - low, 1))
