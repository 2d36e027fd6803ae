"""A TF2 SavedModel as a Keras 3 layer that can be saved, loaded and fine-tuned.

`hub.KerasLayer` is refused by Keras 3. Here the SavedModel's variables are the layer's Keras
variables, over the same storage, and its files travel inside the `.keras` file. Loading a model
never fetches anything: the handle in the configuration is for information.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import keras

from chapterflow.errors import ConfigError, DataError
from chapterflow.models.parts.hub_files import (
    check_hash,
    copy_tree,
    saved_model_folder,
    tree_hash,
)

FOLDER = "saved_model"


@keras.saving.register_keras_serializable(package="chapterflow")
class HubLayer(keras.layers.Layer):  # type: ignore[misc]
    """The features that a SavedModel computes: `(batch, h, w, 3)` -> `(batch, features)`.

    Make one with `HubLayer.from_handle`. The SavedModel always runs in inference mode, so its
    batch normalisation stays as it was while its weights are fine-tuned.

    Args:
        handle: Where it came from.
        sha256: Hash over its files.
        variables: Name, shape, dtype and whether trainable, of each variable.
        input_shape: Shape that it takes, None where it varies.
        output_shape: Shape that it gives.
    """

    def __init__(
        self,
        handle: str,
        sha256: str,
        variables: list[list[Any]],
        input_shape: list[int | None],
        output_shape: list[int | None],
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.handle = handle
        self.sha256 = sha256
        self.specs = [list(spec) for spec in variables]
        self.takes = list(input_shape)
        self.gives = list(output_shape)
        self._module: Any = None
        self._folder: Path | None = None
        self._kept: Any = None
        for number, (_, shape, dtype, trainable) in enumerate(self.specs):
            self.add_weight(
                shape=tuple(shape),
                dtype=dtype,
                initializer="zeros",
                trainable=trainable,
                name=f"variable_{number}",
            )

    @classmethod
    def from_handle(cls, handle: str, sha256: str | None = None, **options: Any) -> HubLayer:
        """Return the layer of a SavedModel.

        Args:
            handle: Path, `file://` or `http(s)://` address, of a folder or a `.tar.gz` archive.
            sha256: Hash over its files that it must have; None takes what is there.

        Raises:
            ConfigError: If the handle names nothing.
            DataError: If it is no feature vector of images, or its hash is another.
            FetchError: If it cannot be fetched.
        """
        folder = saved_model_folder(handle)
        if sha256 is not None:
            check_hash(folder, sha256, handle)
        module = _load(folder, handle)
        takes = _input_shape(module)
        trainable = {id(variable) for variable in getattr(module, "trainable_variables", ())}
        layer = cls(
            handle=handle,
            sha256=tree_hash(folder),
            variables=[
                [
                    variable.name,
                    variable.shape.as_list(),
                    variable.dtype.name,
                    id(variable) in trainable,
                ]
                for variable in module.variables
            ],
            input_shape=takes,
            output_shape=_output_shape(module, takes, handle),
            **options,
        )
        layer._attach(module, folder)
        return layer

    def _attach(self, module: Any, folder: Path, *, keep_values: bool = False) -> None:
        """Let the layer's variables be those of the SavedModel, and its files be at hand."""
        for own, variable in zip(self._in_order(), module.variables, strict=True):
            if keep_values:
                variable.assign(own.value)
            own._value = variable
        self._module = module
        self._folder = folder

    def _in_order(self) -> list[Any]:
        return sorted(self.variables, key=lambda own: int(own.name.rpartition("_")[2]))

    def call(self, inputs: Any) -> Any:
        """Return the features."""
        if self._module is None:
            raise ConfigError(
                "A HubLayer needs its SavedModel: make it with HubLayer.from_handle, or load it "
                f"from a .keras file. Received: only its configuration (handle {self.handle})"
            )
        return _run(self._module, inputs)

    def compute_output_spec(self, inputs: Any, **options: Any) -> Any:
        """Return shape and dtype of the features."""
        return keras.KerasTensor((inputs.shape[0], *self.gives[1:]), dtype="float32")

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the layer."""
        config: dict[str, Any] = super().get_config()
        return config | {
            "handle": self.handle,
            "sha256": self.sha256,
            "variables": self.specs,
            "input_shape": self.takes,
            "output_shape": self.gives,
        }

    def save_assets(self, inner_path: str) -> None:
        """Put the SavedModel's files into the `.keras` file."""
        if self._folder is None:
            raise ConfigError(
                f"A HubLayer can be saved with its SavedModel only. Received: none ({self.handle})"
            )
        copy_tree(self._folder, Path(inner_path) / FOLDER)

    def load_assets(self, inner_path: str) -> None:
        """Take the SavedModel from the `.keras` file, once its hash is right.

        Raises:
            DataError: If its files are not those that were saved.
        """
        folder = Path(inner_path) / FOLDER
        check_hash(folder, self.sha256, self.handle)
        # Keras unpacks into a folder of its own, which is gone when the model is loaded.
        self._kept = tempfile.TemporaryDirectory(prefix="chapterflow-hub-")
        own = Path(self._kept.name) / FOLDER
        copy_tree(folder, own)
        self._attach(_load(own, self.handle), own, keep_values=True)


def _load(folder: Path, handle: str) -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tensorflow_hub imports pkg_resources
        import tensorflow_hub as hub
    try:
        module = hub.load(str(folder))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{handle} must be a TF2 SavedModel. Received: {reason}") from error
    if not callable(module) or not hasattr(module, "variables"):
        raise DataError(
            "A handle must lead to a reusable TF2 SavedModel, with __call__ and variables. "
            f"Received: {handle}, which has none (a module of TF1, or a signature only)"
        )
    return module


def _run(module: Any, inputs: Any) -> Any:
    try:
        return module(inputs, training=False)
    except (TypeError, ValueError) as error:
        if "training" not in str(error):
            raise
        return module(inputs)  # a module without a training mode


def _input_shape(module: Any) -> list[int | None]:
    """Return the shape of images that a module was traced for; None where any will do."""
    for function in getattr(module.__call__, "concrete_functions", ()):
        first = function.structured_input_signature[0]
        if first and getattr(first[0], "shape", None) is not None and first[0].shape.rank == 4:
            return list(first[0].shape.as_list())
    return [None, None, None, 3]


def _output_shape(module: Any, takes: list[int | None], handle: str) -> list[int | None]:
    import tensorflow as tf

    try:
        shape = _run(module, tf.zeros([1, *(size or 224 for size in takes[1:])])).shape
    except (AttributeError, TypeError, ValueError, tf.errors.OpError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            "A handle must lead to a feature vector: images (batch, h, w, 3) in, one tensor out. "
            f"Received: {handle} ({reason})"
        ) from error
    return [None, *shape.as_list()[1:]]
