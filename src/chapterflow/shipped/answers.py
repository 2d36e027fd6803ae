"""The answers of a logged model to raw values: class, label and probabilities, or smoothed curves.

This file travels with every logged model as its `loader_module`: `mlflow.pyfunc.load_model` imports
it from the model's folder. It needs keras, tensorflow, numpy, pandas and mlflow, and nothing of the
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

#: Files next to `MLmodel`: the model's inputs and classes, and its answers to its input example.
DESCRIPTION, EXAMPLE_ANSWERS = "answers.json", "example_answers.json"
#: Folder next to `MLmodel`: our own layers in the model, as a package.
LAYERS = "layers"


class Inputs:
    """The inputs that a model accepts.

    Args:
        about: `inputs` (name, shape and dtype of each; null for sides that vary, and for the name
            of a single input), `lowest` and `highest` (bounds of raw values; null if there are
            none), and for graphs `joined`: the inputs with edges, which are accepted, too.

    Attributes:
        wanted: The inputs by name.
    """

    def __init__(self, about: Mapping[str, Any]) -> None:
        self.wanted: dict[str | None, Any] = {given["name"]: given for given in about["inputs"]}
        # Earlier versions read adjacency matrices only.
        self._joined = {given["name"]: given for given in about.get("joined") or ()}
        self._bounds = about["lowest"], about["highest"]
        self._directed = bool(about.get("directed"))  # Earlier versions do not say.

    def checked(self, model_input: Any) -> dict[str | None, NDArray[Any]]:
        """Return the inputs by name (None for an unnamed one), in the dtypes of the model.

        Raises:
            MlflowException: If the model does not accept their names, dtype, shape or values.
        """
        given = model_input if isinstance(model_input, Mapping) else {None: model_input}
        inputs = self._joined if self._joined and "edges" in given else self.wanted
        if set(given) != set(inputs):
            wanted = [name for name in inputs if name]
            _refuse(
                f"The inputs must be {', '.join(wanted)}"
                if wanted
                else "The input must be one array",
                "one array without a name"
                if None in given
                else ", ".join(map(str, given)) or "none",
            )
        values = {name: self._checked(name, given[name], inputs[name]) for name in inputs}
        if "adjacency" in values:
            _check_graphs(values, directed=self._directed)
        elif "edges" in values:
            values["edges"] = _checked_edges(values, directed=self._directed)
        return values

    def _checked(self, name: str | None, given: Any, wanted: Any) -> NDArray[Any]:
        what = name or "The input"
        try:
            value = np.asarray(given)
        except ValueError:  # lists of different lengths
            _refuse(f"{what} must be one array", "lists of different lengths")
        dtype = np.dtype(wanted["dtype"])
        if name == "edges" and not value.size:  # graphs may have none
            return np.zeros((0, 2), dtype)
        if value.dtype.kind not in ("iu" if dtype.kind in "iu" else "iuf"):
            numbers = "whole numbers" if dtype.kind in "iu" else "numbers"
            _refuse(f"{what} must hold {numbers}", _KINDS.get(value.dtype.kind, str(value.dtype)))
        shape = wanted["shape"]
        if not _fits(value.shape, shape):
            hint = ""
            if _fits(value.shape, shape[1:]):
                hint = ". The first side counts examples: a single one must be put into a list"
            _refuse(f"{what} must have the shape {_text(shape)}", _text(value.shape) + hint)
        if not value.size:
            _refuse(f"{what} must hold an example", _text(value.shape))
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
    """A Keras model that checks its inputs, and answers with the names of classes.

    Args:
        network: Returns logits if it has classes.
        about: The description for `Inputs`, and `classes` (their names; none for curves).
    """

    def __init__(self, network: Any, about: Mapping[str, Any]) -> None:
        import tensorflow as tf

        self._inputs = Inputs(about)
        self._classes: list[str] = list(about["classes"])

        def answer(values: Any) -> Any:
            outputs = network(values, training=False)
            return tf.nn.softmax(outputs) if self._classes else outputs

        self._joined = bool(about.get("joined"))
        specs: Any = {
            given["name"]: tf.TensorSpec(given["shape"], given["dtype"])
            for given in about.get("joined") or about["inputs"]
        }
        # Traced once for batches of any size; `network.predict` takes fifty times as long for one
        # example.
        self._answer = tf.function(answer, input_signature=[specs.get(None, specs)])

    def get_raw_model(self) -> Answers:
        """Return this object, which also takes graphs with `edges`, unlike MLflow's signature."""
        return self

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Return a `pandas.DataFrame` with a row for each example, or for each node of one graph.

        Args:
            model_input: An array `(n, ...)`, or a dict of arrays by name.
            params: Ignored; MLflow passes them.

        Raises:
            MlflowException: INVALID_PARAMETER_VALUE, if the model does not accept the input.
        """
        import pandas as pd
        import tensorflow as tf

        values = self._inputs.checked(model_input)
        if self._joined and "adjacency" in values:
            values = _joined(values)
        tensors: Any = {name: tf.constant(value) for name, value in values.items()}
        outputs = self._answer(tensors.get(None, tensors)).numpy()
        if not np.isfinite(outputs).all():
            _refuse("The input must hold numbers that the model can process", "too large ones")
        if not self._classes:
            return pd.DataFrame({"curve": outputs[..., 0].tolist()})
        best = outputs.argmax(axis=-1)
        return pd.DataFrame(
            {
                "class": best,
                "label": [self._classes[number] for number in best],
                "probabilities": outputs.tolist(),
            }
        )


#: What JSON holds, by the numpy kind that it becomes.
_KINDS = {
    "U": "text",
    "S": "text",
    "b": "true and false",
    "O": "null, text, objects, or lists of different lengths",
    "f": "fractions",
}


def _check_graphs(values: Mapping[str | None, NDArray[Any]], *, directed: bool) -> None:
    """Refuse arrays that are not graphs: their answers or errors would be meaningless."""
    features, adjacency = values["features"], values["adjacency"]
    square = (*features.shape[:-1], features.shape[-2])
    if adjacency.shape != square:
        _refuse(
            f"adjacency must have the shape {_text(square)} for features {_text(features.shape)}",
            _text(adjacency.shape),
        )
    if not np.isin(adjacency, (0, 1)).all():
        _refuse("adjacency must hold only 0 and 1", "other numbers")
    if not directed and not np.array_equal(adjacency, np.swapaxes(adjacency, -1, -2)):
        _refuse("adjacency must be symmetric: an edge goes both ways", "an edge that goes one way")
    if np.diagonal(adjacency, axis1=-2, axis2=-1).any():
        _refuse("adjacency must be 0 on its diagonal: the model adds self-loops itself", "a 1")
    sizes = values.get("sizes")
    if sizes is None:
        return
    if sizes.shape != features.shape[:1]:
        _refuse(f"sizes must have the shape {_text(features.shape[:1])}", _text(sizes.shape))
    if sizes.min() < 1 or sizes.max() > features.shape[1]:
        _refuse(
            f"sizes must lie between 1 and the {features.shape[1]} nodes of the arrays",
            f"{sizes.min()} to {sizes.max()}",
        )
    padding = np.arange(features.shape[1]) >= sizes[:, None]
    if adjacency[padding].any():
        _refuse(
            "adjacency must join nodes of the graph only, as many as sizes says",
            "an edge of a node after them",
        )


def _checked_edges(values: Mapping[str | None, NDArray[Any]], *, directed: bool) -> NDArray[Any]:
    """Return edges sorted by source; refuse those that do not belong to graphs."""
    features, edges, sizes = values["features"], values["edges"], values.get("sizes")
    nodes = len(features)
    if sizes is not None and (sizes.min() < 1 or int(sizes.sum()) != nodes):
        _refuse(
            f"sizes must be at least 1 and sum to the {nodes} rows of features",
            f"a smallest of {sizes.min()} and a sum of {sizes.sum()}",
        )
    if not len(edges):
        return edges
    if edges.min() < 0 or edges.max() >= nodes:
        _refuse(
            f"edges must join nodes 0 to {nodes - 1}, numbered on from graph to graph",
            f"{edges.min()} to {edges.max()}",
        )
    if sizes is not None:
        graph = np.repeat(np.arange(len(sizes)), sizes)[edges]
        if (graph[:, 0] != graph[:, 1]).any():
            _refuse("edges must join nodes of the same graph", "an edge between two graphs")
    if (edges[:, 0] == edges[:, 1]).any():
        _refuse("edges must join two nodes: the model adds self-loops itself", "a self-loop")
    keys = np.sort(edges[:, 0].astype(np.int64) * nodes + edges[:, 1])
    if (keys[1:] == keys[:-1]).any():
        _refuse("edges must list each edge once", "an edge twice")
    if not directed:
        back = np.sort(edges[:, 1].astype(np.int64) * nodes + edges[:, 0])
        if not np.array_equal(keys, back):
            _refuse("edges must list each edge in both directions", "an edge that goes one way")
    return np.column_stack([keys // nodes, keys % nodes]).astype(edges.dtype)


def _joined(values: Mapping[str | None, NDArray[Any]]) -> dict[str | None, NDArray[Any]]:
    """Return graphs with adjacency matrices joined to one graph, with its edges."""
    features, adjacency, sizes = values["features"], values["adjacency"], values.get("sizes")
    ends = np.argwhere(adjacency)
    if sizes is None:
        return {"features": features, "edges": ends.astype(np.int32)}
    first = np.cumsum(sizes) - sizes
    real = np.arange(features.shape[1]) < sizes[:, np.newaxis]
    edges = ends[:, 1:] + first[ends[:, 0], np.newaxis]
    return {"features": features[real], "edges": edges.astype(np.int32), "sizes": sizes}


def _fits(received: tuple[int, ...], shape: list[int | None]) -> bool:
    """Return whether an array has the wanted shape; None stands for any side."""
    return len(received) == len(shape) and all(
        wanted in (None, side) for wanted, side in zip(shape, received, strict=True)
    )


def _text(shape: Any) -> str:
    sides = ", ".join("any" if side is None else str(side) for side in shape)
    return f"({sides},)" if len(shape) == 1 else f"({sides})"


def _refuse(expected: str, received: str) -> None:
    from mlflow.exceptions import MlflowException

    raise MlflowException.invalid_parameter_value(f"{expected}. Received: {received}")


def import_shipped(name: str, shipped: Path) -> None:
    """Import a module; from the files of a model if it is not installed.

    Args:
        name: Full name of the module.
        shipped: Folder of packages in the model's files.

    Raises:
        ModuleNotFoundError: If it is in neither place, or needs a module that is missing.
    """
    try:
        importlib.import_module(name)
        return
    except ModuleNotFoundError:
        parts = name.split(".")
    try:
        # Before `shipped` is anywhere in the path, or an editable installation would not be seen.
        importlib.import_module(parts[0])
    except ModuleNotFoundError:
        sys.path.append(str(shipped))
    # The package may come from another model, or an installation, and lack this module.
    for depth in range(1, len(parts)):
        package = importlib.import_module(".".join(parts[:depth]))
        if (place := str(shipped.joinpath(*parts[:depth]))) not in package.__path__:
            package.__path__.append(place)
    importlib.import_module(name)


def _load_pyfunc(path: str) -> Answers:
    """Return the model in the folder of an MLflow model; called by `mlflow.pyfunc.load_model`."""
    import keras

    folder = Path(path)
    about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    for module in about["layers"]:
        import_shipped(module, folder / LAYERS)  # registers its layers with Keras
    (file,) = (folder / "data").glob("*.keras")
    return Answers(keras.saving.load_model(file, compile=False), about)
