"""What a model answers: raw values in; class, label and probabilities, or smoothed curves, out.

This file travels with every logged model, whose `loader_module` it is: `mlflow.pyfunc.load_model`
imports it from there. It needs keras, tensorflow, numpy, pandas and mlflow, and nothing of the
project that trained the model.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Beside `MLmodel`: what the model takes and answers, and what it answered to its input example.
DESCRIPTION, EXAMPLE_ANSWERS = "answers.json", "example_answers.json"
#: Beside `MLmodel`: the layers of our own that the model is made of, as a package.
LAYERS = "layers"


class Inputs:
    """What a model takes; what it was not made for is refused.

    Args:
        about: `inputs` (name, shape and dtype of each; null for sides that vary, no name where
            there is one input only), `lowest` and `highest` (bounds of raw values; null where there
            are none).

    Attributes:
        wanted: The inputs by name.
    """

    def __init__(self, about: Mapping[str, Any]) -> None:
        self.wanted: dict[str | None, Any] = {given["name"]: given for given in about["inputs"]}
        self._bounds = about["lowest"], about["highest"]

    def checked(self, model_input: Any) -> dict[str | None, NDArray[Any]]:
        """Return the inputs by name (None for one that has no name), in the model's dtypes.

        Raises:
            MlflowException: If names, dtype, shape or values are not those that the model takes.
        """
        given = model_input if isinstance(model_input, Mapping) else {None: model_input}
        if set(given) != set(self.wanted):
            wanted = [name for name in self.wanted if name]
            _refuse(
                f"The inputs must be {', '.join(wanted)}"
                if wanted
                else "The input must be one array",
                "one array without a name"
                if None in given
                else ", ".join(map(str, given)) or "none",
            )
        values = {name: self._checked(name, given[name]) for name in self.wanted}
        if "adjacency" in values:
            _check_graphs(values)
        return values

    def _checked(self, name: str | None, given: Any) -> NDArray[Any]:
        what, wanted = name or "The input", self.wanted[name]
        try:
            value = np.asarray(given)
        except ValueError:  # lists of different lengths
            _refuse(f"{what} must be one array", "lists of different lengths")
        dtype = np.dtype(wanted["dtype"])
        if value.dtype.kind not in ("iu" if dtype.kind in "iu" else "iuf"):
            numbers = "whole numbers" if dtype.kind in "iu" else "numbers"
            _refuse(f"{what} must hold {numbers}", _KINDS.get(value.dtype.kind, str(value.dtype)))
        shape = wanted["shape"]
        if not _fits(value.shape, shape):
            hint = ""
            if _fits(value.shape, shape[1:]):
                hint = ". The first side counts examples: one alone is put into a list of its own"
            _refuse(f"{what} must have the shape {_told(shape)}", _told(value.shape) + hint)
        if not value.size:
            _refuse(f"{what} must hold an example", _told(value.shape))
        with np.errstate(over="ignore"):
            cast = value.astype(dtype, copy=False)
        if not np.isfinite(cast).all():
            _refuse(
                f"{what} must hold finite numbers", f"NaN, infinity, or more than {dtype} holds"
            )
        lowest, highest = self._bounds
        if highest is not None and not (value.min() >= lowest and value.max() <= highest):
            _refuse(
                f"{what} must hold raw values from {lowest:g} to {highest:g}",
                f"values from {value.min():g} to {value.max():g}",
            )
        return cast


class Answers:
    """A Keras model that answers in words, and refuses what it was not made for.

    Args:
        network: Ends in logits where it has classes.
        about: What `Inputs` reads, and `classes` (their names; none for curves).
    """

    def __init__(self, network: Any, about: Mapping[str, Any]) -> None:
        import tensorflow as tf

        self._inputs = Inputs(about)
        self._classes: list[str] = list(about["classes"])

        def answer(values: Any) -> Any:
            found = network(values, training=False)
            return tf.nn.softmax(found) if self._classes else found

        specs: Any = {
            name: tf.TensorSpec(given["shape"], given["dtype"])
            for name, given in self._inputs.wanted.items()
        }
        # Traced once for batches of any size: `network.predict` costs fifty times as much for one.
        self._answer = tf.function(answer, input_signature=[specs.get(None, specs)])

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Return a `pandas.DataFrame` with a row for each example (for each node of one graph).

        Args:
            model_input: An array `(n, ...)`, or a dict of arrays by name.
            params: None are known; MLflow hands them over.

        Raises:
            MlflowException: INVALID_PARAMETER_VALUE, if the input is not what the model takes.
        """
        import pandas as pd
        import tensorflow as tf

        values = self._inputs.checked(model_input)
        tensors: Any = {name: tf.constant(value) for name, value in values.items()}
        found = self._answer(tensors.get(None, tensors)).numpy()
        if not np.isfinite(found).all():
            _refuse("The input must hold numbers that the model can answer", "too large ones")
        if not self._classes:
            return pd.DataFrame({"curve": found[..., 0].tolist()})
        best = found.argmax(axis=-1)
        return pd.DataFrame(
            {
                "class": best,
                "label": [self._classes[number] for number in best],
                "probabilities": found.tolist(),
            }
        )


#: What numpy makes of JSON that is not all numbers.
_KINDS = {
    "U": "text",
    "S": "text",
    "b": "true and false",
    "O": "null, text, objects, or lists of different lengths",
    "f": "fractions",
}


def _check_graphs(values: Mapping[str | None, NDArray[Any]]) -> None:
    """Refuse arrays that are no graphs: they would be answered, or fail, without a reason."""
    features, adjacency = values["features"], values["adjacency"]
    square = (*features.shape[:-1], features.shape[-2])
    if adjacency.shape != square:
        _refuse(
            f"adjacency must have the shape {_told(square)} for features {_told(features.shape)}",
            _told(adjacency.shape),
        )
    if not np.isin(adjacency, (0, 1)).all():
        _refuse("adjacency must hold 0 and 1 alone", "other numbers")
    if not np.array_equal(adjacency, np.swapaxes(adjacency, -1, -2)):
        _refuse("adjacency must be symmetric: an edge goes both ways", "an edge that goes one way")
    if np.diagonal(adjacency, axis1=-2, axis2=-1).any():
        _refuse("adjacency must be 0 on its diagonal: the model adds self-loops itself", "a 1")
    sizes = values.get("sizes")
    if sizes is None:
        return
    if sizes.shape != features.shape[:1]:
        _refuse(f"sizes must have the shape {_told(features.shape[:1])}", _told(sizes.shape))
    if sizes.min() < 1 or sizes.max() > features.shape[1]:
        _refuse(
            f"sizes must lie between 1 and the {features.shape[1]} nodes of the arrays",
            f"{sizes.min()} to {sizes.max()}",
        )
    padding = np.arange(features.shape[1]) >= sizes[:, None]
    if adjacency[padding].any():
        _refuse(
            "adjacency must join nodes of the graph alone: there are as many as sizes says",
            "an edge of a node behind them",
        )


def _fits(own: tuple[int, ...], shape: list[int | None]) -> bool:
    """Return whether an array of the shape `own` has the wanted shape; None is any side."""
    return len(own) == len(shape) and all(
        wanted in (None, side) for wanted, side in zip(shape, own, strict=True)
    )


def _told(shape: Any) -> str:
    sides = ", ".join("any" if side is None else str(side) for side in shape)
    return f"({sides},)" if len(shape) == 1 else f"({sides})"


def _refuse(expected: str, received: str) -> None:
    from mlflow.exceptions import MlflowException

    raise MlflowException.invalid_parameter_value(f"{expected}. Received: {received}")


def import_shipped(name: str, shipped: Path) -> None:
    """Import a module, from the files of a model where none is installed.

    Args:
        name: Of a module within packages.
        shipped: Folder of these packages.

    Raises:
        ModuleNotFoundError: If it is in neither place, or needs what is not there.
    """
    try:
        importlib.import_module(name)
        return
    except ModuleNotFoundError:
        parts = name.split(".")
    try:
        # It has to be looked for before `shipped` is in the path, wherever there: an editable
        # installation would be found behind it.
        importlib.import_module(parts[0])
    except ModuleNotFoundError:
        sys.path.append(str(shipped))
    # The package may be that of another model, or an installation, without this module.
    for depth in range(1, len(parts)):
        package = importlib.import_module(".".join(parts[:depth]))
        if (place := str(shipped.joinpath(*parts[:depth]))) not in package.__path__:
            package.__path__.append(place)
    importlib.import_module(name)


def _load_pyfunc(path: str) -> Answers:
    """Return the model in an MLflow model's folder; `mlflow.pyfunc.load_model` calls this."""
    import keras

    folder = Path(path)
    about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    for module in about["layers"]:
        import_shipped(module, folder / LAYERS)  # which makes its layers known to Keras
    (file,) = (folder / "data").glob("*.keras")
    return Answers(keras.saving.load_model(file, compile=False), about)
