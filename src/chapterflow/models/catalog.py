"""Discovery of chapter models: each file in `chapterflow/models` defines one."""

from pathlib import Path
from typing import Any

import chapterflow.models
from chapterflow import plugins
from chapterflow.environment import quiet
from chapterflow.models.base import ChapterModel

#: Folder of the model files.
FOLDER = Path(chapterflow.models.__path__[0])
#: Modules in that folder that define no model.
NOT_MODELS = ("base", "catalog")


def model_names() -> list[str]:
    """Return the names of all chapter models, sorted."""
    return list(model_modules())


def get_model(name: str) -> ChapterModel[Any]:
    """Return the chapter model named `name`.

    Raises:
        KeyError: If no file has that name.
        ConfigError: If the file does not define `MODEL`, a `ChapterModel` with the file's name.
    """
    module = model_modules()[name]
    with quiet():  # A model file may import TensorFlow.
        return plugins.load(module, "MODEL", ChapterModel, name)


def model_modules() -> dict[str, str]:
    """Return the module of each chapter model by model name."""
    return plugins.modules("chapterflow.models", skip=NOT_MODELS)
