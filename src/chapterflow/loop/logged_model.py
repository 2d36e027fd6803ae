"""Keras models in MLflow, logged with all that serving them needs."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chapterflow.errors import StoreError, StoreUnavailable
from chapterflow.files import sha256_file
from chapterflow.kinds.dataset import DatasetCard, get_kind
from chapterflow.kinds.likeness import Likeness
from chapterflow.plugins import PACKAGE
from chapterflow.shipped import answers
from chapterflow.shipped.answers import DESCRIPTION, EXAMPLE_ANSWERS, LAYERS, Answers
from chapterflow.tracking.runs import (
    FILES_SHA256,
    LOGGED_MODEL,
    MODEL_SHA256,
    TRAINED_SHA256,
    models_of,
)
from chapterflow.tracking.store import open_client
from chapterflow.tracking.versions import model_folder, unregistered, write_manifest

if TYPE_CHECKING:
    import keras
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.models import Model, ModelSignature
    from mlflow.models.model import ModelInfo
    from mlflow.types import Schema

#: Packages that layers of this project need in addition to Keras, by their module.
MORE_REQUIREMENTS = {"chapterflow.models.layers.saved_model": ("tensorflow-hub", "setuptools")}


def description(
    model: keras.Model, card: DatasetCard, example: Any, likeness: Likeness | None = None
) -> dict[str, Any]:
    """Return what `Answers` needs to know about a model: its inputs and its answers.

    Args:
        model: Takes raw values; ends in logits where the card has classes.
        card: The data that it learnt.
        example: Inputs in the dtypes that serving shall accept.
        likeness: Bounds of the inputs that it learnt.
    """
    import numpy as np

    named = example if isinstance(example, dict) else {None: example}
    symbols = model.input if isinstance(example, dict) else {None: model.inputs[0]}
    shapes: dict[Any, Any] = {name: symbol.shape for name, symbol in symbols.items()}
    served = get_kind(card.kind).data.served_shapes(card)
    joined = None
    if served is not None and "edges" in symbols:
        joined = [
            {"name": name, "shape": list(symbol.shape), "dtype": str(symbol.dtype)}
            for name, symbol in symbols.items()
        ]
        shapes = served
    inputs = [
        {"name": name, "shape": list(shapes[name]), "dtype": str(np.asarray(given).dtype)}
        for name, given in named.items()
    ]
    bounds = (0.0, card.value_max) if get_kind(card.kind).bounded else (None, None)
    return {
        "kind": card.kind,
        "inputs": inputs,
        "joined": joined,
        "lowest": bounds[0],
        "highest": bounds[1],
        "classes": card.classes,
        "directed": bool(card.facts.get("directed")),
        "layers": _layer_modules(model),
        "likeness": likeness.model_dump() if likeness else None,
    }


def output_schema(card: DatasetCard) -> Schema:
    """Return the columns of the answers, as MLflow shows them."""
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    numbers = Array(DataType.double)
    if not card.task.classes:
        return Schema([ColSpec(numbers, "curve")])
    return Schema(
        [
            ColSpec(DataType.long, "class"),
            ColSpec(DataType.string, "label"),
            ColSpec(numbers, "probabilities"),
        ]
    )


def requirements(model: keras.Model) -> list[str]:
    """Return the packages that the model's own layers need in addition to Keras, pinned."""
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
    """Return the modules that define a model's own layers, and all of `models.layers`.

    A process that has imported the layers of one model finds those of the next there too.
    """
    if not (own := _own(model)):
        return []
    import keras

    from chapterflow.models import layers as custom_layers

    custom_layers.register()
    known = {layer.__module__ for layer in keras.saving.get_custom_objects().values()}
    return sorted(own | {name for name in known if name.startswith("chapterflow.models.layers.")})


#: What a served model needs; MLflow takes several seconds per model to infer it.
REQUIREMENTS = ("tensorflow", "keras", "numpy")


@contextmanager
def _without_module_map() -> Iterator[None]:
    """Keep MLflow from reading the files of all installed packages, for more than a second.

    It maps packages to modules to check requirements of packages that are not installed. Ours are.
    """
    from mlflow.utils import requirements_utils

    name = "_MODULES_TO_PACKAGES"
    known = getattr(requirements_utils, name, None)
    setattr(requirements_utils, name, known or {})
    try:
        yield
    finally:
        # Who lets MLflow infer requirements needs the map.
        setattr(requirements_utils, name, known)


def log_keras_model(
    model: keras.Model,
    *,
    run_id: str,
    name: str,
    input_example: Any,
    card: DatasetCard | None = None,
    likeness: Likeness | None = None,
    params: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
    run: Run | None = None,
    experiment_id: str | None = None,
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
        likeness: Bounds of the inputs that it learnt, by which answers to other inputs are marked.
        params: Shown on the model's page, where they can be searched. The run's own are added and
            win.
        metrics: Logged to the run and, with it, to the model.
        tags: Tags of the logged model.
        run: The run, where the caller has read it.
        experiment_id: Experiment of the run, where the caller knows it and passes the run's
            parameters: the run is not read.

    Raises:
        StoreError: If the model cannot be saved; no half logged model is left.
    """
    import mlflow.keras
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric
    from mlflow.models import Model

    client = open_client()
    shown = dict(params or {})
    if experiment_id is None:
        run = run or client.get_run(run_id)
        experiment_id = run.info.experiment_id
        shown |= run.data.params
    # Not by `Model.log`: it belongs to the active experiment instead of the run's there, and each
    # of the run's metrics is read.
    logged = client.create_logged_model(
        experiment_id,
        name=name,
        source_run_id=run_id,
        params={key: str(value) for key, value in shown.items()},
        tags={key: str(value) for key, value in (tags or {}).items()},
    )
    try:
        about = None if card is None else description(model, card, input_example, likeness)
        record = Model(
            artifact_path=logged.artifact_location,
            model_uuid=logged.model_id,
            run_id=run_id,
            model_id=logged.model_id,
        )
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            with _without_module_map():
                mlflow.keras.save_model(
                    path=folder,
                    mlflow_model=record,
                    model=model,
                    signature=_signature(model, input_example, card, about),
                    input_example=input_example,
                    pip_requirements=[
                        *(f"{package}=={version(package)}" for package in REQUIREMENTS),
                        *requirements(model),
                    ],
                )
            (file,) = path.rglob("*.keras")
            written = {MODEL_SHA256: sha256_file(file)}
            if about is not None:
                ship(path, record, model, about, input_example)
            # Last: it covers all files of the model.
            written[FILES_SHA256] = write_manifest(path)
            client.log_model_artifacts(logged.model_id, folder)
        client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
        client.set_logged_model_tags(logged.model_id, written)
        info = record.get_model_info(logged)
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


def log_trained_model(
    client: MlflowClient,
    model: keras.Model,
    *,
    run_id: str,
    experiment_id: str | None = None,
    **options: Any,
) -> str:
    """Log the model that a run trained, once, and return the id of the logged model.

    The run's tag `LOGGED_MODEL` names it. A run that continues after it was logged keeps it where
    the weights are still the same and all files are as they were logged. Every other model of the
    run is deleted.

    Args:
        client: MLflow client.
        model: The trained model.
        run_id: The run.
        experiment_id: Experiment of a run that has no logged model yet, which is not looked up.
        options: As `log_keras_model` takes them.
    """
    # Not of the file: a resumed training writes it again, with another time inside.
    digest = hashlib.sha256()
    for weights in model.get_weights():
        digest.update(f"{weights.dtype} {weights.shape}\n".encode() + weights.tobytes())
    trained = digest.hexdigest()
    run = client.get_run(run_id) if experiment_id is None else None
    named = run.data.tags.get(LOGGED_MODEL) if run else None
    # The model that the run names first: a killed process may have logged another one.
    earlier = sorted(
        models_of(client, run) if run else [], key=lambda logged: logged.model_id != named
    )
    kept = next(
        (
            str(logged.model_id)
            for logged in earlier
            if logged.tags.get(TRAINED_SHA256) == trained and _is_whole(client, run_id, logged)
        ),
        None,
    )
    for logged in earlier:
        if logged.model_id != kept:
            client.delete_logged_model(logged.model_id)
    if kept:
        model_id = kept
    else:
        info = log_keras_model(
            model,
            run_id=run_id,
            run=run,
            experiment_id=experiment_id,
            tags={TRAINED_SHA256: trained},
            **options,
        )
        model_id = str(info.model_id)
    if model_id != named:
        client.set_tag(run_id, LOGGED_MODEL, model_id)
    return model_id


def _is_whole(client: MlflowClient, run_id: str, logged: LoggedModel) -> bool:
    """Tell whether the files of a logged model are those that were logged."""
    # The hash of its files is the last tag that a logged model gets.
    if FILES_SHA256 not in logged.tags:
        return False
    try:
        model_folder(client, unregistered(str(logged.name), run_id, str(logged.model_id)))
    except StoreUnavailable:
        raise
    except StoreError:
        return False
    return True


def _signature(
    model: keras.Model, example: Any, card: DatasetCard | None, about: dict[str, Any] | None
) -> ModelSignature:
    """Return the signature of a model: axes that it leaves open are open.

    Without a card and the model's description, inputs and outputs are those of the network.
    """
    import keras
    import numpy as np
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types import Schema, TensorSpec

    def spec(dtype: Any, shape: Any, name: str | None = None) -> Any:
        sides = tuple(-1 if side is None else side for side in shape)
        return TensorSpec(np.dtype(dtype), sides, name)

    if card is not None and about is not None:
        specs = [spec(given["dtype"], given["shape"], given["name"]) for given in about["inputs"]]
        return ModelSignature(Schema(specs), output_schema(card))
    if isinstance(example, dict):
        specs = [
            spec(np.asarray(example[name]).dtype, model.input[name].shape, name) for name in example
        ]
    else:
        specs = [spec(np.asarray(example).dtype, model.inputs[0].shape)]
    output = keras.tree.map_structure(keras.ops.convert_to_numpy, model(example, training=False))
    return ModelSignature(Schema(specs), infer_signature(example, output).outputs)


def module_hashes(roots: Sequence[str], package: Path = PACKAGE) -> dict[str, str]:
    """Return path and hash of modules and of all modules of this package that they import."""
    waiting = list(roots)
    files: dict[str, str] = {}
    seen: set[str] = set()
    while waiting:
        module = waiting.pop()
        path = _module_file(module, package)
        if module in seen or path is None:
            continue
        seen.add(module)
        files[f"src/{path.relative_to(package.parent).as_posix()}"] = sha256_file(path)
        # `from . import x` starts at the package: the module itself, if the file is an __init__.
        above = module.rpartition(".")[0]
        imports = _Imports(module if path.name == "__init__.py" else above)
        imports.visit(ast.parse(path.read_text(encoding="utf-8")))
        waiting.extend([*imports.names, above])  # importing a module executes its packages
    return dict(sorted(files.items()))


def _module_file(module: str, package: Path) -> Path | None:
    parts = module.split(".")
    if parts[0] != package.name:
        return None
    path = package.joinpath(*parts[1:])
    if path.with_suffix(".py").is_file():
        return path.with_suffix(".py")
    return path / "__init__.py" if (path / "__init__.py").is_file() and len(parts) > 1 else None


class _Imports(ast.NodeVisitor):
    """Modules that a source imports when it runs; those for type checkers alone do not count."""

    def __init__(self, parent: str) -> None:
        self.names: list[str] = []
        self._parent = parent

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for statement in node.orelse:
                self.visit(statement)
        else:
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.names.extend(alias.name for alias in node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        if node.level:
            above = self._parent.split(".")
            above = above[: len(above) - node.level + 1]
            module = ".".join([*above, *([module] if module else [])])
        if module:
            # `from package import module` names a module, `from module import name` does not;
            # other names are skipped.
            self.names.append(module)
            self.names.extend(f"{module}.{alias.name}" for alias in node.names)
