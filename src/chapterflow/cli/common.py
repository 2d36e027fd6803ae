"""Options, start and messages that commands share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from chapterflow.environment import Project, configure, find_project

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
InvertOption = Annotated[
    bool,
    typer.Option("--invert", help="Exchange light and dark: for black ink on white paper, say."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def say(message: str, style: str = "") -> None:
    """Print a message on stderr."""
    Console(stderr=True).print(Text(message, style=style), soft_wrap=True)


def say_version(version: Version) -> None:
    """Print which version a command takes, on stderr."""
    say(version.notice())


def start(
    profile: str | None = None, overrides: list[str] | None = None, *, models: bool = True
) -> tuple[Project, Settings]:
    """Prepare the project that the command runs in, and return it with its settings.

    Args:
        models: Whether the command needs the blocks of models (`load_settings`).
    """
    project = find_project()
    configure(project)
    from chapterflow.config.load import load_settings

    settings = load_settings(
        project.params, profile=profile, overrides=overrides or [], models=models
    )
    return project, settings


def print_json(document: Any) -> None:
    """Print a document on stdout."""
    print(json.dumps(document, indent=2))
