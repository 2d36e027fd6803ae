"""Keras models in MLflow: logged so that they can be served and rebuilt, and registered."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from chapterflow.data.card import DatasetCard, sha256_file
from chapterflow.errors import StoreError
from chapterflow.tracking.runs import MODEL_SHA256
from chapterflow.tracking.shipping import description, output_schema, requirements, ship

if TYPE_CHECKING:
    import keras
    from mlflow.models import ModelSignature
    from mlflow.models.model import ModelInfo

#: What a served model needs; letting MLflow find out takes it several seconds a model.
REQUIREMENTS = ("tensorflow", "keras", "numpy")


def log_keras_model(
    model: keras.Model,
    *,
    run_id: str,
    name: str,
    input_example: Any,
    card: DatasetCard | None = None,
    params: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
) -> ModelInfo:
    """Log a Keras model to a run in the Keras flavour, with signature, example and requirements.

    `mlflow.keras.load_model(info.model_uri)` gives the Keras model back. With a card,
    `mlflow.pyfunc.load_model` gives class, label and probabilities for raw values, also where this
    package is not installed (`chapterflow.shipped.answers`).

    Args:
        model: Any built model, compiled or not.
        run_id: Run that the model belongs to; it need not be the active one.
        name: Name of the logged model.
        input_example: A small batch, shape `(n, ...)`, in the dtype that serving shall accept, or
            a dict of them by name.
        card: Data that the model learnt; it says what raw values and answers mean.
        params: Shown on the model's page, where they can be searched. The run's own are added and
            win.
        metrics: Logged to the run and, with it, to the model.
        tags: Tags of the logged model.

    Raises:
        StoreError: If the model cannot be saved; no half logged model is left.
    """
    import mlflow.keras
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from mlflow.models import Model

    def save_model(path: str, validate_serving_input: bool, **options: Any) -> None:
        # mlflow.keras writes the input example before it makes the folder, and fails.
        Path(path).mkdir(parents=True)
        mlflow.keras.save_model(path=path, **options)
        (file,) = Path(path).rglob("*.keras")
        written[MODEL_SHA256] = sha256_file(file)
        if about is not None:
            ship(Path(path), options["mlflow_model"], model, about, input_example)

    client = MlflowClient()
    written: dict[str, str] = {}
    run = client.get_run(run_id)
    # Left to `Model.log`, it would belong to the active experiment instead of the run's.
    logged = client.create_logged_model(
        run.info.experiment_id,
        name=name,
        source_run_id=run_id,
        params={key: str(value) for key, value in {**(params or {}), **run.data.params}.items()},
        tags={key: str(value) for key, value in (tags or {}).items()},
    )
    try:
        about = None if card is None else description(model, card, input_example)
        info = Model.log(
            artifact_path=None,
            flavor=SimpleNamespace(__name__="mlflow.keras", save_model=save_model),
            model_id=logged.model_id,
            run_id=run_id,
            model=model,
            signature=_signature(model, input_example, card),
            input_example=input_example,
            pip_requirements=[
                *(f"{package}=={version(package)}" for package in REQUIREMENTS),
                *requirements(model),
            ],
            # It would load and run the model once more, and print Keras's progress bars.
            validate_serving_input=False,
        )
        client.set_logged_model_tags(logged.model_id, written)
    except BaseException as error:
        client.delete_logged_model(logged.model_id)
        if not isinstance(error, Exception):
            raise
        raise StoreError(f"The model {name!r} could not be logged. Received: {error}") from error
    if metrics:
        now = time.time_ns() // 1_000_000
        values = [
            Metric(key, float(value), now, 0, model_id=info.model_id, run_id=run_id)
            for key, value in metrics.items()
        ]
        client.log_batch(run_id, metrics=values)
    return info


def _signature(model: keras.Model, example: Any, card: DatasetCard | None) -> ModelSignature:
    """Return the signature of a model: axes that it leaves open are open.

    Without a card the outputs are those of the network.
    """
    import keras
    import numpy as np
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types import Schema, TensorSpec

    def spec(given: Any, symbol: Any, name: str | None = None) -> Any:
        sides = tuple(-1 if side is None else side for side in symbol.shape)
        return TensorSpec(np.asarray(given).dtype, sides, name)

    if isinstance(example, dict):
        specs = [spec(example[name], model.input[name], name) for name in example]
    else:
        specs = [spec(example, model.inputs[0])]
    if card is not None:
        return ModelSignature(Schema(specs), output_schema(card))
    output = keras.tree.map_structure(keras.ops.convert_to_numpy, model(example, training=False))
    return ModelSignature(Schema(specs), infer_signature(example, output).outputs)


def register(
    model_uri: str,
    name: str,
    *,
    tags: Mapping[str, str] | None = None,
    description: str | None = None,
    about: str | None = None,
    about_tags: Mapping[str, str] | None = None,
) -> str:
    """Make a logged model the next version of a registered model, and return the version.

    The registered model is created if it is missing; several processes may do so at once.

    Args:
        model_uri: The logged model.
        name: Name of the registered model.
        tags: Tags of the version.
        description: Description of the version.
        about: Description of the registered model, set when it is created.
        about_tags: Tags of the registered model, set then too.

    Raises:
        StoreError: If the version does not become ready.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    client = MlflowClient()
    try:
        client.create_registered_model(name, tags=dict(about_tags or {}), description=about)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    metadata = Model.load(model_uri)
    # Waits until the version is ready.
    made = client.create_model_version(
        name,
        source=model_uri,
        run_id=metadata.run_id,
        tags=dict(tags or {}),
        description=description,
        model_id=metadata.model_id,
    )
    if made.status != "READY":
        raise StoreError(
            f"Version {made.version} of the model {name!r} must become READY. "
            f"Received: {made.status} ({made.status_message})"
        )
    return str(made.version)
