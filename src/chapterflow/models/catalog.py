"""Which chapter models exist: every file in `chapterflow/models` is one."""

from pathlib import Path
from typing import Any

import chapterflow.models
from chapterflow import plugins
from chapterflow.environment import quiet
from chapterflow.models.base import ChapterModel

#: The folder of the files.
FOLDER = Path(chapterflow.models.__path__[0])
#: Files there that are no models.
NOT_MODELS = ("base", "catalog")


def model_names() -> list[str]:
    """Return the names of all chapter models, sorted."""
    return list(model_modules())


def get_model(name: str) -> ChapterModel[Any]:
    """Return the chapter model called `name`.

    Raises:
        KeyError: If no file of that name exists.
        ConfigError: If the file does not register a `ChapterModel` of its own name as `MODEL`.
    """
    module = model_modules()[name]
    with quiet():  # A file may import TensorFlow.
        return plugins.load(module, "MODEL", ChapterModel, name)


def model_modules() -> dict[str, str]:
    """Return the module of each chapter model, by name."""
    return plugins.modules("chapterflow.models", skip=NOT_MODELS)
