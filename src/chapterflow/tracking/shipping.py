"""What travels with a logged model, so that MLflow can serve it where this package is not."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chapterflow.data.card import DatasetCard
from chapterflow.shipped import answers
from chapterflow.shipped.answers import DESCRIPTION, EXAMPLE_ANSWERS, LAYERS, Answers
from chapterflow.tracking.fingerprint import PACKAGE, module_hashes

if TYPE_CHECKING:
    import keras
    from mlflow.models import Model
    from mlflow.types import Schema

#: Kinds of data whose raw values lie between 0 and the card's `value_max`.
BOUNDED = ("images", "photos", "volumes")
#: What layers of our own need beside Keras, by the module that defines them.
MORE_REQUIREMENTS = {"chapterflow.models.parts.hub_layer": ("tensorflow-hub", "setuptools")}


def description(model: keras.Model, card: DatasetCard, example: Any) -> dict[str, Any]:
    """Return what `Answers` has to know of a model: what it takes, and what it answers.

    Args:
        model: Takes raw values; ends in logits where the card has classes.
        card: The data that it learnt.
        example: Inputs in the dtypes that serving shall accept.
    """
    import numpy as np

    named = example if isinstance(example, dict) else {None: example}
    symbols = model.input if isinstance(example, dict) else {None: model.inputs[0]}
    inputs = [
        {"name": name, "shape": list(symbols[name].shape), "dtype": str(np.asarray(given).dtype)}
        for name, given in named.items()
    ]
    bounds = (0.0, card.value_max) if card.kind in BOUNDED else (None, None)
    return {
        "kind": card.kind,
        "inputs": inputs,
        "lowest": bounds[0],
        "highest": bounds[1],
        "classes": card.classes,
        "layers": _layer_modules(model),
    }


def output_schema(card: DatasetCard) -> Schema:
    """Return the columns of the answers, as MLflow shows them."""
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    numbers = Array(DataType.double)
    if not card.classes:
        return Schema([ColSpec(numbers, "curve")])
    return Schema(
        [
            ColSpec(DataType.long, "class"),
            ColSpec(DataType.string, "label"),
            ColSpec(numbers, "probabilities"),
        ]
    )


def requirements(model: keras.Model) -> list[str]:
    """Return the packages that the model's own layers need beside Keras, pinned."""
    needed = {name for module in _own(model) for name in MORE_REQUIREMENTS.get(module, ())}
    return [f"{package}=={version(package)}" for package in sorted(needed)]


def ship(
    folder: Path, record: Model, model: keras.Model, about: dict[str, Any], example: Any
) -> None:
    """Add to a saved MLflow model what lets it answer in words, and let MLflow load that.

    The Keras flavour stays: `mlflow.keras.load_model` gives the Keras model.

    Args:
        folder: The saved model.
        record: What its `MLmodel` says; saved again.
        model: The model that was saved.
        about: Its `description`.
        example: Its input example, which is answered now and kept: a later process must answer
            the same.
    """
    from mlflow.models.model import MLMODEL_FILE_NAME

    source = Path(answers.__file__)
    # The name says which: versions logged with different code may be loaded side by side.
    code = source.read_bytes()
    loader = f"chapterflow_answers_{hashlib.sha256(code).hexdigest()[:8]}"
    (folder / "code").mkdir()
    (folder / "code" / f"{loader}.py").write_bytes(code)
    if about["layers"]:
        for name in ["src/chapterflow/__init__.py", *module_hashes(about["layers"])]:
            relative = name.removeprefix("src/")
            target = folder / LAYERS / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(PACKAGE.parent / relative, target)
    (folder / DESCRIPTION).write_text(json.dumps(about, indent=2), encoding="utf-8")
    answered = Answers(model, about).predict(example).to_dict("records")
    (folder / EXAMPLE_ANSWERS).write_text(json.dumps(answered), encoding="utf-8")
    record.flavors["python_function"] |= {"loader_module": loader, "code": "code"}
    record.save(str(folder / MLMODEL_FILE_NAME))


def _own(model: keras.Model) -> set[str]:
    """Return the modules of this project that define layers of a model."""
    return set(re.findall(r'"module": "(chapterflow\.models\.[\w.]+)"', model.to_json()))


def _layer_modules(model: keras.Model) -> list[str]:
    """Return the modules that define a model's own layers, and all of `models.parts` beside them.

    A process that has imported the layers of one model finds those of the next there too.
    """
    if not (own := _own(model)):
        return []
    import keras

    from chapterflow.models.parts import custom_layers

    custom_layers.register()
    known = {found.__module__ for found in keras.saving.get_custom_objects().values()}
    return sorted(own | {name for name in known if name.startswith("chapterflow.models.parts.")})
