"""`chapterflow data`: datasets that are here, fetched, verified, added."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from chapterflow.cli.common import JsonOption, ProfileOption, SetOption, print_json, say, start

if TYPE_CHECKING:
    from chapterflow.config.settings import Settings
    from chapterflow.environment import Project


def inventory(project: Project, settings: Settings) -> list[dict[str, Any]]:
    """Return one record for each dataset of `params.yaml`."""
    from chapterflow.kinds.dataset import CARD, read_card

    found = []
    for name, params in settings.datasets.items():
        uses = [
            f"{role} ({profile})"
            for role, by_profile in settings.roles.items()
            for profile, dataset in by_profile.items()
            if dataset == name
        ]
        folder = project.data / name
        card = read_card(folder) if (folder / CARD).is_file() else None
        found.append(
            {
                "dataset": name,
                "kind": params.kind,
                "used_for": uses,
                "here": card is not None,
                "examples": card.counts if card else None,
                "shape": card.shape if card else None,
                "digest": card.digest if card else None,
                "licence": card.licence if card else None,
            }
        )
    return found


def print_inventory(console: Console, found: list[dict[str, Any]]) -> None:
    """Print the records as a table."""
    from chapterflow.kinds.dataset import SPLITS, shape_text

    table = Table("dataset", "kind", "used for", "train / validation / test", "shape", "digest")
    for record in found:
        here = record["here"]
        table.add_row(
            record["dataset"],
            record["kind"],
            ", ".join(record["used_for"]),
            " / ".join(f"{record['examples'][split]:,}" for split in SPLITS)
            if here
            else "not here",
            shape_text(record["shape"]) if here else "",
            record["digest"][:12] if here else f"`chapterflow data fetch {record['dataset']}`",
        )
    console.print(table)


app = typer.Typer(help="Datasets: list, fetch, verify, add, prune.", no_args_is_help=True)


@app.command("list")
def data_list(as_json: JsonOption = False) -> None:
    """List the datasets.

    Which role and profile they serve, and whether they are here.
    """
    project, settings = start()
    from chapterflow.loop.progress import console

    found = inventory(project, settings)
    if as_json:
        print_json({"datasets": found})
    else:
        print_inventory(console(), found)


@app.command("fetch")
def data_fetch(
    datasets: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DATASET]...", help="All of the profile by default."),
    ] = None,
    profile: ProfileOption = None,
    set_: SetOption = None,
    force: Annotated[bool, typer.Option(help="Build what is here anew.")] = False,
) -> None:
    """Bring datasets onto this machine; DVC versions data/.

    CHAPTERFLOW_MIRROR (a path, file:// or http:// address) replaces every upstream address.
    """
    project, settings = start(profile, set_)
    names = datasets or [by_profile[settings.profile] for by_profile in settings.roles.values()]
    settings.check_names(names, settings.datasets, "dataset")
    from chapterflow.data.versioning import can_version, record_version
    from chapterflow.loop import steps
    from chapterflow.loop.progress import shown, tell_about

    console = Console()
    with shown(console, names) as progress:
        for name in names:
            ready = steps.prepare(project, settings, name, rebuild=force, tell=tell_about(name))
            progress.update(name, "built" if ready.built else "here", f"digest {ready.digest[:12]}")
    if can_version(project):
        # Also where nothing was built: data.dvc may be missing, or be of another time.
        console.print(f"data.dvc: version {record_version(project)}", highlight=False)
    else:
        say("Not versioned: this folder is no git checkout with DVC (`git init && dvc init`).")


@app.command("verify")
def data_verify() -> None:
    """Check every byte of the datasets against their cards."""
    project, settings = start()
    from chapterflow.data.build import verify_dataset
    from chapterflow.errors import DataError

    console = Console()
    here = [name for name in settings.datasets if (project.data / name).is_dir()]
    faults = []
    for name in here:
        found = verify_dataset(project.data / name)
        faults.extend(found)
        console.print(f"{name}: {'damaged' if found else 'ok'}", highlight=False)
    if not here:
        console.print("No dataset is here. `chapterflow data fetch` brings them.")
    if faults:
        raise DataError("\n".join([*faults, "`chapterflow data fetch --force` builds them anew."]))


@app.command("add")
def data_add(
    name: str,
    path: Annotated[str, typer.Argument(help="Folder or file.")],
    kind: Annotated[str, typer.Option(help="images, idx, csv, voxels, tu or planetoid.")],
    role: Annotated[
        str | None, typer.Option(help="Role that it fills in the book profile from now on.")
    ] = None,
    validation: Annotated[float | None, typer.Option(help="Share; 0.1 by default.")] = None,
    test: Annotated[float | None, typer.Option(help="Share; 0.2 by default.")] = None,
    title: Annotated[str | None, typer.Option(help="Title for pages and cards.")] = None,
    force: Annotated[bool, typer.Option(help="Replace one of this name.")] = False,
) -> None:
    """Add data of your own.

    They are read, checked, and written to datasets.yaml; nothing is written where a check
    fails.
    `chapterflow run MODEL --data NAME` learns them. Where PATH has changed since, `chapterflow data
    fetch --force NAME` builds them anew.
    """
    project, settings = start()
    from chapterflow.data.source import UserData
    from chapterflow.loop import own_data as adding
    from chapterflow.loop.progress import shown, tell_about

    adding.check_name(project, name, force=force)
    place = Path(os.path.abspath(Path(path).expanduser()))
    data = UserData(place, settings.seed, validation, test, title, say)
    block = adding.build_block(kind, data)
    console = Console()
    with shown(console, [name]) as progress:
        tell = tell_about(name)
        added = adding.add_dataset(project, name, block, role=role, force=force, tell=tell)
        progress.update(name, "added", f"digest {added.card.digest[:12]}")
    counts = ", ".join(f"{count:,} {split}" for split, count in added.card.counts.items())
    console.print(
        Text(f"{name}: {counts}; {added.checks} checks passed. It stands in datasets.yaml."),
        soft_wrap=True,
    )
    console.print(
        Text(f"It is a copy. Where {path} has changed: `chapterflow data fetch --force {name}`."),
        soft_wrap=True,
    )
    if added.models:
        console.print(
            Text(f"Next: `chapterflow run MODEL --data {name}`; MODEL: {', '.join(added.models)}."),
            soft_wrap=True,
        )


@app.command("prune")
def data_prune() -> None:
    """Empty the cache of features of frozen backbones.

    They are computed anew where they are needed.
    """
    project, _ = start()
    from chapterflow.training.frozen import prune

    freed = prune(project.scratch / "features")
    Console().print(f"Freed {freed / 1e6:.1f} MB.", highlight=False)
