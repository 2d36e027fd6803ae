"""The explanation of one input of a user's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.errors import ConfigError
from chapterflow.explain.answers import answered, ranking, target_number, usable_methods
from chapterflow.explain.attributions import METHODS, answers, attribute
from chapterflow.explain.explanation import Explanation, Picture
from chapterflow.explain.faithfulness import faithfulness, is_classifier, pixel_score
from chapterflow.explain.feature_maps import has_feature_maps
from chapterflow.explain.inside import look_inside
from chapterflow.explain.judging import faithful_metrics, with_scores
from chapterflow.explain.overlays import draw_attributions
from chapterflow.explain.trained import check_trained
from chapterflow.settings import nearest

if TYPE_CHECKING:
    import keras


def explain_input(
    model: keras.Model,
    inputs: NDArray[Any],
    classes: Sequence[str],
    value_max: float,
    folder: Path,
    *,
    methods: Sequence[str] | None = None,
    layer: str | None = None,
    target: int | str | None = None,
    title: str = "",
    seed: int = 0,
) -> Explanation:
    """Explain a trained model's answer for one input.

    Args:
        model: Trained.
        inputs: One input as the model takes it, `(1, *spatial, channels)`, raw values.
        classes: Names of the classes; none for a model of curves.
        value_max: Largest raw value.
        folder: Where the pictures go.
        methods: Of `METHODS`; all that the model allows unless given.
        layer: For `grad-cam`: whose maps are weighed.
        target: Name or number of the class to explain (of a curve: the sample); the one that the
            model says unless given.
        title: What all headings begin with.
        seed: Of the random orders.

    Raises:
        ConfigError: If an option or the form of the input is wrong.
        Untrained: If the model has the weights that it was built with.
    """
    given = np.asarray(inputs, np.float32)
    wanted = tuple(model.input.shape) if hasattr(model.input, "shape") else None
    if wanted is None or given.ndim != len(wanted) or len(given) != 1 or not 3 <= given.ndim <= 5:
        raise ConfigError(
            "explain_input: one curve, image or volume with its batch axis is explained, of the "
            f"form {wanted}. Received: {given.shape}"
        )
    check_trained(model)
    folder.mkdir(parents=True, exist_ok=True)
    methods = list(methods or usable_methods(model))
    for name in methods:
        if name not in METHODS:
            raise ConfigError(
                f"method must be one of {', '.join(METHODS)}.{nearest(name, METHODS)} "
                f"Received: {name!r}"
            )
    targets, described = answered(model, given, classes)
    if target is not None:
        targets = np.array([target_number(target, classes, answers(model, given).shape[1])])
    pictures: list[Picture] = []
    layers: list[dict[str, Any]] = []
    if has_feature_maps(model):
        pictures, layers = look_inside(
            model, given, ["input"], folder, title, value_max, channels=False
        )
    maps = {
        name: attribute(model, given, targets, name, layer=layer if name == "grad-cam" else None)
        for name in methods
    }
    faithful = faithfulness(pixel_score(model, given, targets), ranking(model, maps), seed=seed)
    path = folder / "attributions.png"
    text = described["text"][0]
    if target is not None:
        explained = classes[int(targets[0])] if classes else f"sample {targets[0]}"
        text += f"\nexplained: {explained}"
    draw_attributions(
        given,
        maps,
        f"{title}: what speaks for the answer",
        path,
        value_max=value_max,
        captions=[f"input\n{text}"],
        faithful=faithful,
        marks=None if is_classifier(model) else targets,
    )
    pictures.append(
        Picture(
            key="attributions",
            step=0,
            path=path,
            caption=f"The input, and over it what speaks for the answer by {', '.join(maps)}.",
        )
    )
    return Explanation(
        metrics={
            f"explain/{name}/{measure}": value
            for name, one in faithful.items()
            for measure, value in faithful_metrics(one).items()
        },
        pictures=pictures,
        details={
            "probes": with_scores(described["rows"], faithful),
            "explained": int(targets[0]),
            "layers": layers,
        },
    )
