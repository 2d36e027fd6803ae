"""Is a method to be believed? All measures of its maps, for pixels and nodes alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.explain.faithfulness import Faithfulness
from chapterflow.explain.randomisation import STAGES, cascade, similarity

if TYPE_CHECKING:
    import keras

#: Deviation of the noise that a map should survive, as a share of the largest raw value.
NOISE = 0.02
#: A map depends on the model where random weights leave less than this share of the similarity
#: that noise leaves: a relative threshold, because how alike two maps are depends on the data.
RELATIVE = 0.5


@dataclass(frozen=True)
class Judgement:
    """What is known of one method's maps.

    Attributes:
        faithful: Deletion and insertion, against random orders.
        stages: Similarity after the last layer, and after all layers, were randomised.
        stability: Similarity after a little noise on the inputs.
    """

    faithful: Faithfulness
    stages: list[float]
    stability: float

    @property
    def depends_on_model(self) -> bool:
        """Whether random weights change the map clearly more than noise does."""
        return self.stages[-1] < RELATIVE * self.stability

    @property
    def metrics(self) -> dict[str, float]:
        """The measures by name, finite."""
        return faithful_metrics(self.faithful) | {
            "randomisation_similarity": self.stages[-1],
            "depends_on_model": float(self.depends_on_model),
            "stability": self.stability,
        }

    @property
    def doubts(self) -> list[str]:
        """What speaks against the maps, in words for a picture; none where nothing does."""
        found = [] if self.faithful.beats_random else ["does not beat random orders"]
        if not self.depends_on_model:
            found.append("hardly depends on the weights")
        return found


def faithful_metrics(found: Faithfulness) -> dict[str, float]:
    """Return deletion, insertion, what random orders reach, and the verdict."""
    return {
        "deletion_auc": float(found.deletion.mean()),
        "insertion_auc": float(found.insertion.mean()),
        "random_deletion_auc": float(found.random.mean()),
        "beats_random": float(found.beats_random),
    }


def judge(
    model: keras.Model,
    make: Callable[[bool], Mapping[str, NDArray[Any]]],
    faithful: Mapping[str, Faithfulness],
    *,
    seed: int,
    where: NDArray[np.bool_],
) -> dict[str, Judgement]:
    """Return the judgement on each method.

    Args:
        model: Trained.
        make: Returns maps `(n, *places)` by method, of inputs with noise or without.
        faithful: How the methods fare against random orders.
        seed: Of the random weights.
        where: Places `(n, *places)` of the maps that are compared.
    """
    maps, noisy = make(False), make(True)
    stages = cascade(model, maps, lambda: make(False), seed=seed, where=where)
    return {
        name: Judgement(
            found, stages[name], float(np.mean(similarity(maps[name], noisy[name], where)))
        )
        for name, found in faithful.items()
    }


def as_metrics(judged: Mapping[str, Judgement]) -> dict[str, float]:
    """Return all measures as `explain/<method>/<measure>`."""
    return {
        f"explain/{method}/{measure}": value
        for method, one in judged.items()
        for measure, value in one.metrics.items()
    }


def as_details(judged: Mapping[str, Judgement]) -> dict[str, Any]:
    """Return what the metrics leave out: each stage of the randomisation, and the doubts."""
    return {
        method: {
            "similarity_after_randomising": dict(
                zip(
                    [
                        f"{share:.0%} of the layers" if share else "the last layer"
                        for share in STAGES
                    ],
                    one.stages,
                    strict=True,
                )
            ),
            "doubts": one.doubts,
        }
        for method, one in judged.items()
    }


def with_scores(
    rows: Sequence[dict[str, Any]], faithful: Mapping[str, Faithfulness]
) -> list[dict[str, Any]]:
    """Return the rows of the probes with the scores of their maps."""
    found = []
    for number, row in enumerate(rows):
        scores = {
            name: {
                "deletion_auc": float(one.deletion[number]),
                "insertion_auc": float(one.insertion[number]),
                "beats_random": bool(one.each_beats_random[number]),
            }
            for name, one in faithful.items()
            if number < len(one.deletion)
        }
        found.append(row | {"maps": scores})
    return found
