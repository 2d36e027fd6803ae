"""Which chapter models exist: every file in `chapterflow/models` is one."""

import importlib
import pkgutil
from pathlib import Path
from typing import Any

import chapterflow.models
from chapterflow.environment import quiet
from chapterflow.errors import ConfigError
from chapterflow.models.base import ChapterModel

#: The folder of the files.
FOLDER = Path(chapterflow.models.__path__[0])
#: Files there that are no models.
NOT_MODELS = ("base", "catalog")


def model_names() -> list[str]:
    """Return the names of all chapter models, sorted: files but for those in `NOT_MODELS`.

    The file of the model `gcn-node` is `gcn_node.py`.
    """
    return sorted(
        module.name.replace("_", "-")
        for module in pkgutil.iter_modules(chapterflow.models.__path__)
        if not module.ispkg and module.name not in NOT_MODELS
    )


def get_model(name: str) -> ChapterModel[Any]:
    """Return the chapter model called `name`.

    Raises:
        KeyError: If no file of that name exists.
        ConfigError: If the file does not register a `ChapterModel` of its own name as `MODEL`.
    """
    if name not in model_names():
        raise KeyError(name)
    module = name.replace("-", "_")
    with quiet():  # A file may import TensorFlow.
        registered = getattr(importlib.import_module(f"chapterflow.models.{module}"), "MODEL", None)
    if not isinstance(registered, ChapterModel) or registered.name != name:
        received = getattr(registered, "name", registered)
        raise ConfigError(
            f"chapterflow/models/{module}.py must end with MODEL = ChapterModel({name!r}, ...). "
            f"Received: {received!r}"
        )
    return registered
