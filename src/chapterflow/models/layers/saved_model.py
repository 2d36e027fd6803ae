"""A TF2 SavedModel as a Keras 3 layer, and the handling of its files.

Keras 3 rejects `hub.KerasLayer`. This layer shares the storage of its Keras variables with the
SavedModel's variables, and the `.keras` file includes the SavedModel's files. Loading a model never
downloads anything: the handle in the configuration is informational.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import keras

from chapterflow.errors import ConfigError, DataError, FetchError

#: Largest unpacked size of an archive, and number of its files and folders.
MAX_BYTES, MAX_MEMBERS = 4 << 30, 100_000


def saved_model_folder(handle: str) -> Path:
    """Return the folder of the SavedModel at `handle`.

    `tensorflow_hub` downloads an http(s) address into `TFHUB_CACHE_DIR`. A local archive, which
    that library does not support, is unpacked into the same folder.

    Raises:
        ConfigError: If nothing exists at the handle.
        DataError: If the handle is not a SavedModel, or an archive member lies outside its folder.
        FetchError: If the download fails.
    """
    if handle.split("://", maxsplit=1)[0] in ("http", "https"):
        folder = _fetched(handle)
    elif "://" in handle and not handle.startswith("file://"):
        raise ConfigError(
            "A handle must be a path, or a file://, http:// or https:// address. "
            f"Received: {handle}. Correct the handle"
        )
    else:
        path = url2pathname(urlsplit(handle).path) if handle.startswith("file:") else handle
        folder = Path(path).expanduser().absolute()
        if folder.is_file():
            folder = _unpacked(folder)
    if not (folder / "saved_model.pb").is_file():
        raise (DataError if folder.is_dir() else ConfigError)(
            "A handle must lead to a folder with a saved_model.pb, or an archive (.tar.gz) of one. "
            f"Received: {handle}. Correct the handle"
        )
    return folder


def tree_hash(folder: Path) -> str:
    """Return a SHA-256 over the paths and contents of all files in a folder."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return total.hexdigest()


def check_hash(folder: Path, expected: str, handle: str) -> None:
    """Verify the hash over a SavedModel's files.

    Raises:
        DataError: If the hash differs from `expected`.
    """
    received = tree_hash(folder)
    if received != expected:
        raise DataError(
            f"check_hash: the SavedModel of {handle} must have the SHA-256 {expected}. "
            f"Received: {received}. Do not use it; download it again from its source"
        )


def _fetched(handle: str) -> Path:
    import tensorflow_hub as hub

    try:
        return Path(hub.resolve(handle))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FetchError(
            f"Cannot download the handle {handle}, and it is not in TFHUB_CACHE_DIR. "
            f"Received: {reason}. Download it on a machine with network access and pass its path"
        ) from error


def _unpacked(archive: Path) -> Path:
    """Unpack an archive once, into a folder named by the archive's hash."""
    cache = Path(os.environ.get("TFHUB_CACHE_DIR") or Path(tempfile.gettempdir()) / "tfhub_modules")
    with archive.open("rb") as file:
        target = cache / hashlib.file_digest(file, "sha256").hexdigest()
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="unpack-") as temporary:
        fresh = Path(temporary) / "model"
        try:
            with tarfile.open(archive) as tar:
                _check_size(tar, archive)
                _check_members(tar)
                # Python 3.11.0 to 3.11.3 have no filters; later versions check the members again.
                checked: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
                tar.extractall(fresh, **checked)  # noqa: S202 - members are checked
        except tarfile.TarError as error:
            raise DataError(
                "A handle must lead to a .tar.gz archive whose members stay within its folder. "
                f"Received: {archive} ({error}). Check the archive"
            ) from error
        # Not `files.publish`, which replaces the target: an existing folder has the same content
        # and may be in use.
        try:
            fresh.rename(target)
        except OSError:
            if not target.is_dir():  # another process created it first
                raise
    return target


def copy_tree(source: Path, target: Path) -> None:
    """Copy the files of a SavedModel."""
    shutil.copytree(source, target, dirs_exist_ok=True)


def _check_size(tar: tarfile.TarFile, archive: Path) -> None:
    """Refuse an archive that unpacks to too much, before what follows is decompressed."""
    size = 0
    for count, member in enumerate(tar, 1):
        size += member.size
        if size > MAX_BYTES or count > MAX_MEMBERS:
            raise DataError(
                f"An archive may unpack to at most {MAX_BYTES:,} bytes in {MAX_MEMBERS:,} files. "
                f"Received: {archive}, which unpacks to more. Use a smaller SavedModel"
            )


def _check_members(tar: tarfile.TarFile) -> None:
    """Refuse members that are not plain files or folders, or that lie outside the archive's folder.

    Raises:
        tarfile.TarError: If there is such a member; the message names it.
    """
    for member in tar:
        parts = PurePosixPath(member.name.replace("\\", "/")).parts
        if not (member.isreg() or member.isdir()) or ".." in parts or "/" in parts[:1]:
            raise tarfile.ReadError(f"the member {member.name!r} is not allowed")


FOLDER = "saved_model"


@keras.saving.register_keras_serializable(package="chapterflow")
class HubLayer(keras.layers.Layer):  # type: ignore[misc]
    """Features of a SavedModel: `(batch, h, w, 3)` -> `(batch, features)`.

    Create it with `HubLayer.from_handle`. The SavedModel always runs in inference mode, so its
    batch normalisation does not change while its weights are fine-tuned.

    Args:
        handle: Source of the SavedModel.
        sha256: Hash over its files.
        variables: Name, shape, dtype and trainability of each variable.
        input_shape: Shape of its inputs; None for an axis of any length.
        output_shape: Shape of its outputs.
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
        """Return a layer that runs the SavedModel at `handle`.

        Args:
            handle: Path, or `file://` or `http(s)://` address, of a folder or a `.tar.gz` archive.
            sha256: Expected hash over its files; None skips the check.

        Raises:
            ConfigError: If nothing exists at the handle.
            DataError: If it does not compute image feature vectors, or its hash differs.
            FetchError: If the download fails.
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
        """Share the SavedModel's variables with the layer, and remember its folder for saving."""
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
                "A HubLayer needs its SavedModel. Received: only its configuration (handle "
                f"{self.handle}). Create it with HubLayer.from_handle, or load a .keras file"
            )
        return _run(self._module, inputs)

    def compute_output_spec(self, inputs: Any, **options: Any) -> Any:
        """Return the shape and dtype of the features."""
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
        """Write the SavedModel's files into the `.keras` file.

        Raises:
            ConfigError: If the layer has no SavedModel.
        """
        if self._folder is None:
            raise ConfigError(
                f"A HubLayer can be saved only with its SavedModel. Received: none ({self.handle}"
                "). Create it with HubLayer.from_handle"
            )
        copy_tree(self._folder, Path(inner_path) / FOLDER)

    def load_assets(self, inner_path: str) -> None:
        """Load the SavedModel from the `.keras` file and verify its hash.

        Raises:
            DataError: If the files differ from the saved ones.
        """
        folder = Path(inner_path) / FOLDER
        check_hash(folder, self.sha256, self.handle)
        # Keras deletes its own unpacked folder after loading the model.
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
        raise DataError(
            f"{handle} must be a TF2 SavedModel. Received: {reason}. Choose another handle"
        ) from error
    if not callable(module) or not hasattr(module, "variables"):
        raise DataError(
            "A handle must lead to a reusable TF2 SavedModel, with __call__ and variables. "
            f"Received: {handle}, which lacks them (a TF1 module, or only signatures). Choose "
            "another handle"
        )
    return module


def _run(module: Any, inputs: Any) -> Any:
    try:
        return module(inputs, training=False)
    except (TypeError, ValueError) as error:
        if "training" not in str(error):
            raise
        return module(inputs)  # some modules have no training mode


def _input_shape(module: Any) -> list[int | None]:
    """Return the input shape that a module was traced for; None for an axis of any length."""
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
            f"Received: {handle} ({reason}). Choose another handle"
        ) from error
    return [None, *shape.as_list()[1:]]
