"""Options, start and messages that commands share."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from chapterflow.environment import Project, configure, find_project
from chapterflow.language import VARIABLE, Language, choose_language

if TYPE_CHECKING:
    from chapterflow.config.settings import Settings
    from chapterflow.tracking.versions import Version

ProfileOption = Annotated[
    str | None,
    typer.Option("--profile", help="embedded or book; the default is in params.yaml."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PATH=VALUE", help="Override a value of params.yaml for this call."
    ),
]
LanguageOption = Annotated[
    Language | None,
    typer.Option(
        "--lang", help=f"Language of results: {VARIABLE}, or else the locale, by default."
    ),
]
#: What `MODEL` is, wherever a command reads a registered version (`tracking.versions`).
MODEL_HELP = (
    "NAME, NAME/VERSION or NAME@ALIAS of a registered model. NAME is its champion; before the "
    "first promotion its challenger, or else its newest version."
)
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
ModelsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[MODEL]...", help="Models of params.yaml; all by default."),
]
AllowDirtyOption = Annotated[
    bool,
    typer.Option("--allow-dirty", help="Promote also code and data that are not in a commit."),
]
WithoutChampionOption = Annotated[
    bool,
    typer.Option(
        "--without-champion", help="Ignore a champion that was scored on other test data."
    ),
]
InvertOption = Annotated[
    bool,
    typer.Option("--invert", help="Exchange light and dark: for black ink on white paper, say."),
]


class Engine(StrEnum):
    """Where models and trials run."""

    local = "local"
    dask = "dask"
    ray = "ray"


EngineOption = Annotated[
    Engine | None,
    typer.Option("--engine", help="Where models run: here, or on a cluster (docs/scale.md)."),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="ADDRESS",
        help="Of the cluster: tcp://HOST:8786 (dask), HOST:6379 (ray).",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def say(message: str, style: str = "") -> None:
    """Print a message on stderr."""
    Console(stderr=True).print(Text(message, style=style), soft_wrap=True)


def say_version(version: Version) -> None:
    """Print which version a command takes, on stderr."""
    say(version.notice())


def start(
    profile: str | None = None,
    overrides: list[str] | None = None,
    *,
    models: bool = True,
    project: str | os.PathLike[str] | None = None,
    language: Language | None = None,
) -> tuple[Project, Settings]:
    """Prepare the project that the command runs in, and return it with its settings.

    Args:
        profile: Profile; by default the one in `params.yaml`.
        overrides: `path=value` changes of `params.yaml`.
        models: Whether the command needs the blocks of models (`load_settings`).
        project: Its folder; by default the one around the current folder.
        language: Language of results; by default the one of the environment.
    """
    choose_language(language)
    opened = find_project() if project is None else Project.at(Path(project))
    configure(opened)
    from chapterflow.config.load import load_settings

    settings = load_settings(
        opened.params, profile=profile, overrides=overrides or [], models=models
    )
    return opened, settings


def execution_override(settings: Settings, engine: Engine | None, address: str | None) -> list[str]:
    """Return the override of `execution:` for a call: the whole block, which files may lack."""
    given = {"engine": engine and engine.value, "address": address}
    changes = {key: value for key, value in given.items() if value}
    if not changes:
        return []
    return [f"execution={json.dumps(settings.execution.model_dump() | changes)}"]


def print_json(document: Any) -> None:
    """Print a document on stdout."""
    print(json.dumps(document, indent=2))
