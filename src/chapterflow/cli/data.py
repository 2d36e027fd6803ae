"""`chapterflow data`: list, fetch, verify, add and check datasets."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

from chapterflow.cli.common import (
    AllowDirtyOption,
    JsonOption,
    ModelsArgument,
    ProfileOption,
    SetOption,
    WithoutChampionOption,
    print_json,
    say,
    start,
)

if TYPE_CHECKING:
    from chapterflow.config.settings import Settings
    from chapterflow.environment import Project


def inventory(project: Project, settings: Settings) -> list[dict[str, Any]]:
    """Return one record for each dataset of `params.yaml`."""
    from chapterflow.kinds.dataset import CARD, read_card

    records = []
    for name, params in settings.datasets.items():
        uses = [
            f"{role} ({profile})"
            for role, by_profile in settings.roles.items()
            for profile, dataset in by_profile.items()
            if dataset == name
        ]
        folder = project.data / name
        card = read_card(folder) if (folder / CARD).is_file() else None
        records.append(
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
    return records


def print_inventory(console: Console, records: list[dict[str, Any]]) -> None:
    """Print the records as a table."""
    from chapterflow.kinds.dataset import SPLITS, shape_text

    table = Table("dataset", "source", "used for", "train / validation / test", "shape", "digest")
    for record in records:
        here = record["here"]
        table.add_row(
            record["dataset"],
            record["kind"],
            ", ".join(record["used_for"]),
            " / ".join(f"{record['examples'][split]:,}" for split in SPLITS)
            if here
            else "not fetched",
            shape_text(record["shape"]) if here else "",
            record["digest"][:12] if here else f"`chapterflow data fetch {record['dataset']}`",
        )
    console.print(table)


app = typer.Typer(help="Datasets: list, fetch, verify, add, check, prune.", no_args_is_help=True)


@app.command("list")
def data_list(as_json: JsonOption = False) -> None:
    """List the datasets.

    Shows the roles and profiles that use a dataset, and whether it is on this machine.
    """
    project, settings = start()
    from chapterflow.loop.progress import console

    records = inventory(project, settings)
    if as_json:
        print_json({"datasets": records})
    else:
        print_inventory(console(), records)


@app.command("fetch")
def data_fetch(
    datasets: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DATASET]...", help="By default all datasets of the profile."),
    ] = None,
    profile: ProfileOption = None,
    set_: SetOption = None,
    force: Annotated[bool, typer.Option(help="Rebuild datasets that exist.")] = False,
) -> None:
    """Build datasets on this machine, and record their version.

    DVC versions data/. CHAPTERFLOW_MIRROR (a path, file:// or http:// address) replaces every
    upstream address.
    """
    project, settings = start(profile, set_)
    names = datasets or [by_profile[settings.profile] for by_profile in settings.roles.values()]
    settings.check_names(names, settings.datasets, "dataset")
    from chapterflow.data.build import record_version
    from chapterflow.data.versioning import can_version
    from chapterflow.loop import steps
    from chapterflow.loop.progress import shown, tell_about

    console = Console()
    with shown(console, names) as progress:
        for name in names:
            ready = steps.prepare(
                project, settings, name, rebuild=force, record=False, tell=tell_about(name)
            )
            progress.update(name, "built" if ready.built else "here", f"digest {ready.digest[:12]}")
    if can_version(project):
        # Even if nothing was built: data.dvc may be missing or out of date.
        console.print(f"data.dvc: version {record_version(project)}", highlight=False)
    else:
        say(
            "data/ is not versioned, because this folder is not a git checkout with DVC "
            "(`git init && dvc init`)."
        )


@app.command("verify")
def data_verify() -> None:
    """Check every byte of the datasets against their cards."""
    project, settings = start()
    from chapterflow.data.build import verify_dataset
    from chapterflow.errors import DataError

    console = Console()
    existing = [name for name in settings.datasets if (project.data / name).is_dir()]
    damage, names = [], []
    for name in existing:
        problems = verify_dataset(project.data / name)
        damage.extend(problems)
        names += [name] if problems else []
        console.print(f"{name}: {'damaged' if problems else 'ok'}", highlight=False)
    if not existing:
        console.print("There are no datasets yet. `chapterflow data fetch` builds them.")
    if damage:
        remedy = f"`chapterflow data fetch --force {' '.join(names)}` builds it again."
        raise DataError("\n".join([*damage, remedy]))


@app.command("check")
def data_check(
    models: ModelsArgument = None,
    allow_dirty: AllowDirtyOption = False,
    without_champion: WithoutChampionOption = False,
    drift_days: Annotated[
        float, typer.Option(help="Days of predictions that are compared with the test data.", min=0)
    ] = 7,
    profile: ProfileOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look for new data and drift once, as the schedule does.

    Good new data are trained on and their models judged; bad data stop before training, and exit
    with 2 or 3. `notify:` of params.yaml names whom to tell.
    """
    project, settings = start(profile, set_)
    names = list(dict.fromkeys(models or settings.models))
    settings.check_names(names, settings.models, "model")
    from chapterflow.loop import progress as live
    from chapterflow.tracking.store import check_reachable
    from pipelines.prefect_server import outcome_of, prefect_server

    check_reachable(project)
    console = live.console(stderr=as_json)
    datasets = list(dict.fromkeys(d for name in names for d in settings.datasets_of(name)))
    with live.shown(console, datasets), prefect_server(project.scratch, tell=say):
        from pipelines import data_check as flow

        results: Any = outcome_of(
            flow.data_check,
            models=names,
            profile=settings.profile,
            overrides=set_,
            drift_days=drift_days,
            allow_dirty=allow_dirty,
            without_champion=without_champion,
        )
    exit_code = 0
    if isinstance(results, flow.DataCheckFailed):
        exit_code, results = results.exit_code, results.results
    elif isinstance(results, BaseException):
        raise results
    if as_json:
        print_json(results)
    else:
        for line in flow.lines_of(results):
            console.print(Text(line), soft_wrap=True)
        style = "red" if exit_code else "green" if results["verdict"] == "promoted" else ""
        text = f"Verdict: {results['verdict']}. Notified: {results['notified']}."
        console.print(Text(text, style=style), soft_wrap=True)
    sys.exit(exit_code)


class _AddCommand(TyperCommand):
    """A command whose help lists the sources, which are imported only to show it."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from chapterflow.data.source import own_sources

        *names, last = own_sources()
        option: Any = next(param for param in self.params if param.name == "source")
        option.help = f"Source, the format of PATH: {', '.join(names)} or {last}."
        super().format_help(ctx, formatter)


@app.command("add", cls=_AddCommand)
def data_add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new dataset.")],
    path: Annotated[str, typer.Argument(metavar="PATH", help="Folder or file.")],
    source: Annotated[str, typer.Option("--kind", help="Source, the format of PATH.")],
    role: Annotated[
        str | None, typer.Option(help="Role that it takes in the book profile.")
    ] = None,
    validation: Annotated[
        float | None, typer.Option(help="Share of the examples; 0.1 by default.")
    ] = None,
    test: Annotated[
        float | None, typer.Option(help="Share of the examples; 0.2 by default.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Title on pages and on the card.")] = None,
    names: Annotated[
        str | None,
        typer.Option(
            metavar="ENCODING",
            help="Encoding of the names in a .zip that does not declare UTF-8: cp949.",
        ),
    ] = None,
    directed: Annotated[
        bool, typer.Option("--directed", help="The edges of graphs have a direction.")
    ] = False,
    accept: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHECK[=VALUE]",
            help="Bound of a check for this dataset; without VALUE, what the data need.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace a dataset of this name.")] = False,
) -> None:
    """Add your own data.

    Reads and checks the data, copies them to data/ and adds a block to datasets.yaml; writes
    nothing if a check fails. `chapterflow run MODEL --data NAME` trains on them. After PATH has
    changed, `chapterflow data fetch --force NAME` builds them again.
    """
    project, settings = start()
    from chapterflow.data.source import UserData
    from chapterflow.loop import own_data as adding
    from chapterflow.loop.progress import shown, tell_about

    adding.check_name(project, name, force=force)
    place = Path(os.path.abspath(Path(path).expanduser()))
    data = UserData(place, settings.seed, validation, test, title, say, names, directed)
    block = adding.build_block(source, data)
    console = Console()
    with shown(console, [name]) as progress:
        tell = tell_about(name)
        added = adding.add_dataset(
            project, name, block, role=role, accept=accept or (), force=force, tell=tell
        )
        progress.update(name, "added", f"digest {added.card.digest[:12]}")
    counts = ", ".join(f"{count:,} {split}" for split, count in added.card.counts.items())
    console.print(
        Text(f"{name}: {counts}; {added.checks} checks passed. Added to datasets.yaml."),
        soft_wrap=True,
    )
    if added.card.accepted:
        console.print(
            Text(f"Accepted for {name}: {added.card.accepted_text}. Its card and pages say so."),
            soft_wrap=True,
        )
    console.print(
        Text(f"It is a copy; after a change of {path}: `chapterflow data fetch --force {name}`."),
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

    Features are computed again when a model needs them.
    """
    project, _ = start()
    from chapterflow.training.frozen import prune

    freed = prune(project.scratch / "features")
    Console().print(f"Freed {freed / 1e6:.1f} MB.", highlight=False)
