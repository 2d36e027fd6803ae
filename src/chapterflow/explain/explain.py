"""Everything that is shown of one trained model, or of one input: pictures and figures.

What is explained is the answer that the model gives: the class it says, whether right or wrong; of
a curve, the value in its middle.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.data.card import Dataset
from chapterflow.explain.explanation import Explanation, Picture
from chapterflow.explain.nodes import explain_nodes
from chapterflow.explain.one_input import explain_input
from chapterflow.explain.pixels import explain_pixels
from chapterflow.explain.reactions import draw_reactions, reactions

if TYPE_CHECKING:
    import keras

__all__ = ["Explanation", "Picture", "explain", "explain_input"]

GRAPHS = ("graphs", "citations")


def explain(
    model: keras.Model,
    dataset: Dataset,
    folder: Path,
    *,
    seed: int,
    title: str,
    probabilities: NDArray[Any] | None = None,
    tell: Callable[[str], None] = lambda detail: None,
) -> Explanation:
    """Explain a trained model on the probes of its dataset.

    Args:
        model: Trained; its weights are changed for a while, and are as they were afterwards.
        dataset: Its dataset, photos at the size that it takes.
        folder: Where the pictures go.
        seed: Of random orders, random weights and noise.
        title: What all headings begin with.
        probabilities: `(n, classes)` of the test split in stored order; None draws no reactions.
        tell: Is told what is being done.

    Raises:
        Untrained: If the model has the weights that it was built with; it names the layers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if dataset.card.kind in GRAPHS:
        found = explain_nodes(model, dataset, folder, seed=seed, title=title, tell=tell)
    else:
        found = explain_pixels(model, dataset, folder, seed, title, tell)
    if probabilities is None or not dataset.card.classes:
        return found
    labels = np.asarray(dataset.labels[dataset.indices("test")])
    sorts = reactions(labels, probabilities, len(dataset.card.classes))
    test = dataset.indices("test")
    details = found.details | {
        "reactions": {
            dataset.card.classes[int(number)]: {
                sort: [int(test[one]) for one in several] for sort, several in own.items()
            }
            for number, own in sorts.items()
        }
    }
    pictures = list(found.pictures)
    if dataset.card.kind not in GRAPHS:
        tell("reactions")
        path = folder / "reactions.png"
        draw_reactions(dataset, sorts, probabilities, f"{title}: what the model reacts to", path)
        pictures.append(
            Picture(
                key="reactions",
                step=0,
                path=path,
                caption="For each class the test examples that the model is surest of, least sure "
                "of, and wrong about with most confidence.",
            )
        )
    return Explanation(metrics=found.metrics, pictures=pictures, details=details)
