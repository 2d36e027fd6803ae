"""The report: all sections, style and script in one HTML file."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from chapterflow.checks import stylesheet, templates
from chapterflow.config.settings import Settings
from chapterflow.environment import Project
from chapterflow.errors import ChapterflowError, ConfigError
from chapterflow.files import hashes, sha256_file, staged
from chapterflow.kinds.dataset import CARD, read_card
from chapterflow.language import language, tr
from chapterflow.page.data_section import data_sections, lineage
from chapterflow.page.material import Entry, Material
from chapterflow.page.model_section import ATTRIBUTIONS, model_section
from chapterflow.page.parts import PAGE_BYTES, Album
from chapterflow.page.playground import NODE_MODEL, NothingToShow, write_playground
from chapterflow.page.questions_section import questions
from chapterflow.page.results_section import groups
from chapterflow.page.side_by_side_section import side_by_side
from chapterflow.page.svg import Pen
from chapterflow.plugins import PACKAGE
from chapterflow.tracking import runs
from chapterflow.tracking.artifacts import REPORT
from chapterflow.tracking.comparison import differences_of, newest_runs
from chapterflow.tracking.fingerprint import validation_folder
from chapterflow.tracking.records import Comparison, Reported, RunFacts
from chapterflow.tracking.runs import find_runs, labels, newest_flow_run, read_run
from chapterflow.tracking.session import Session
from chapterflow.tracking.versions import find_version
from chapterflow.types import Tell, silent
from chapterflow.validation.docs import COLUMNS

if TYPE_CHECKING:
    from mlflow import MlflowClient

_TEMPLATES = Path(__file__).parent / "templates"
#: The playground, next to the page.
PLAYGROUND = "playground.html"
#: Element of the page's head with the hash of all that the page is made from (`_origin`) and that
#: of its playground, and the bytes of the file that contain it.
ORIGIN, HEAD_BYTES = "chapterflow-origin", 1000
#: Libraries that draw.
DRAWING = ("matplotlib", "numpy", "pillow")


def render(material: Material, *, tell: Tell = silent, limit: int = PAGE_BYTES) -> str:
    """Return the page as one HTML document that loads nothing else.

    Args:
        material: Runs and data.
        tell: Reports progress.
        limit: Largest size in bytes; pictures lose quality to keep it.
    """
    album, pen = Album(), Pen()
    tell("write", "results")
    results, answers = groups(material, pen), questions(material, album)
    tell("write", "the same examples for all models")
    comparisons = side_by_side(material, album)
    models = []
    for entry in material.entries:
        tell("write", entry.label)
        models.append(model_section(entry, material.bins, album, pen))
    tell("write", "data and lineage")
    template = templates(_TEMPLATES).get_template("page.html.jinja")
    page = template.render(
        profile=material.profile,
        facts=material.facts,
        playground={"href": PLAYGROUND, "models": material.playground},
        groups=results,
        questions=answers,
        side_by_side=comparisons,
        models=models,
        data=data_sections(material, album, pen),
        lineage=lineage(material.entries),
        columns={key: tr(heading) for key, heading in COLUMNS.items()},
        attributions={key: tr(heading) for key, heading in ATTRIBUTIONS.items()},
        language=language(),
        origin=material.origin,
        origin_name=ORIGIN,
        style=(_TEMPLATES / "page.css").read_text(encoding="utf-8") + stylesheet("checks"),
        script=(_TEMPLATES / "page.js").read_text(encoding="utf-8"),
    )
    tell("write", "pictures")
    return album.fill(page, limit)


def write(page: str, folder: Path) -> Path:
    """Write the page as `index.html` in a folder, in one step, and return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "index.html"
    with staged(path) as new:
        new.write_text(page, encoding="utf-8")
    return path


def write_report(
    project: Project,
    settings: Settings,
    *,
    out: Path,
    wanted: Sequence[str] = (),
    comparison: Comparison | None = None,
    flow_run_id: str | None = None,
    tell: Tell = silent,
) -> Reported:
    """Write one page about runs and their data, and log it.

    A page in `out` that was made from the same is left as it is, and so is the run's copy.

    Args:
        out: Folder of the page, `index.html`.
        wanted: Ids of runs, or their beginnings; by default the runs that `compare` compares.
        comparison: What `compare` has just returned; it is not repeated.
        flow_run_id: MLflow run that the page is logged to; by default the newest of the wanted
            ones, or else the newest flow's.

    Raises:
        ConfigError: If there is no finished run, a wanted one does not exist, or `out` is a file.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out must be a folder. Received: the file {out}")
    started = time.monotonic()
    out = out.absolute()
    with (
        Session(project, settings, reading=True) as session,
        tempfile.TemporaryDirectory() as copies,
    ):
        client, experiment = session.client, session.experiment_id
        tell("look up", "runs")
        if wanted:
            chosen = find_runs(client, experiment, wanted)
        elif comparison is not None:
            ids = [str(outcome.run_id) for outcome in comparison.models]
            chosen = runs.runs_of(client, experiment, ids)
        else:
            chosen = newest_runs(project, settings, session)
        if not chosen:
            raise ConfigError(
                f"A report needs a finished run in the profile {settings.profile!r}; "
                "`chapterflow run` makes some. Received: a store without any"
            )
        names = labels(chosen)
        facts = [
            read_run(client, run, names[run.info.run_id], Path(copies), tell=tell) for run in chosen
        ]
        # Relative, so that the whole checkout can be moved.
        docs = {
            digest: os.path.relpath(folder, out)
            for digest, folder in _data_docs(project, settings, facts).items()
        }
        origin, page = _origin(project, settings, session, facts, docs), out / "index.html"
        if _origin_of(page) != (origin, _digest(out / PLAYGROUND)):
            material = Material(
                profile=", ".join(
                    dict.fromkeys(f.tags.get(runs.PROFILE, settings.profile) for f in facts)
                ),
                entries=[Entry(fact, project.data) for fact in facts],
                differences=comparison.differences
                if comparison is not None
                and {*names.values()} == {m.model for m in comparison.models}
                else differences_of(session, settings, chosen, names),
                bins=settings.evaluation.calibration_bins,
                questions=settings.questions,
                docs=docs,
                facts=_head(facts),
                playground=_playground(project, settings, session, out, facts, tell),
                origin=f"{origin} {_digest(out / PLAYGROUND)}",
            )
            page = write(render(material, tell=tell), out)
        run_id = (
            flow_run_id
            # A page of some runs must not replace the flow's page of all.
            or (None if wanted else newest_flow_run(client, experiment, settings.profile))
            or max(facts, key=lambda fact: fact.started).run_id
        )
        files = [path for path in (page, out / PLAYGROUND) if path.is_file()]
        if not _is_logged(client, run_id, files, Path(copies, REPORT)):
            tell("log", "the page")
            for file in files:
                client.log_artifact(run_id, str(file), REPORT)
    return Reported(
        page=page,
        size=page.stat().st_size,
        models=[fact.label for fact in facts],
        run_id=run_id,
        artifact=f"{REPORT}/{page.name}",
        seconds=round(time.monotonic() - started, 3),
    )


def _origin(
    project: Project,
    settings: Settings,
    session: Session,
    facts: Sequence[RunFacts],
    docs: Mapping[str, str],
) -> str:
    """Return the hash of all that a page and its playground are made from."""
    versions = []
    for reference in (*(fact.run_id for fact in facts), NODE_MODEL):
        with suppress(ChapterflowError):
            found = find_version(session.client, reference, experiment_id=session.experiment_id)
            versions.append([found.uri(), found.run_id])
    cards = {}
    for dataset in dict.fromkeys(fact.dataset for fact in facts):
        with suppress(ChapterflowError):
            cards[dataset] = read_card(project.data / dataset).digest
    document = {
        "runs": [
            [fact.model_dump(mode="json", exclude={"folder"}), hashes(fact.folder)]
            for fact in facts
        ],
        "versions": versions,
        "cards": cards,
        "docs": docs,
        "settings": settings.model_dump(mode="json"),
        "language": language(),
        "sources": {
            name: digest for name, digest in hashes(PACKAGE).items() if not name.endswith(".pyc")
        },
        "libraries": {name: version(name) for name in DRAWING},
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _origin_of(page: Path) -> tuple[str, ...]:
    """Return the hashes in the head of a page that was written; () if it has none."""
    try:
        with page.open("rb") as file:
            head = file.read(HEAD_BYTES).decode(errors="replace")
    except OSError:
        return ()
    matched = re.search(f'<meta name="{ORIGIN}" content="(\\w+) (\\w*)">', head)
    return matched.groups() if matched else ()


def _digest(path: Path) -> str:
    """Return the hash of a file; empty if there is none."""
    return sha256_file(path) if path.is_file() else ""


def _is_logged(client: MlflowClient, run_id: str, files: Sequence[Path], copies: Path) -> bool:
    """Tell whether a run has these files, byte for byte, and no others, in its folder of pages."""
    logged = {Path(item.path).name for item in client.list_artifacts(run_id, REPORT)}
    if logged != {file.name for file in files}:
        return False
    client.download_artifacts(run_id, REPORT, str(copies.parent))
    return all(sha256_file(copies / file.name) == sha256_file(file) for file in files)


def _playground(
    project: Project,
    settings: Settings,
    session: Session,
    out: Path,
    facts: Sequence[RunFacts],
    tell: Tell,
) -> list[str]:
    """Write the playground of the runs' models next to the page, and return these models.

    Returns:
        None of them if the playground can show none; an earlier playground is then removed.
    """
    ids = [fact.run_id for fact in facts]
    try:
        return write_playground(
            project, settings, session, out / PLAYGROUND, wanted=ids, tell=tell
        ).models
    except NothingToShow:
        pass
    except ChapterflowError as error:  # The report shows the results all the same.
        tell("write", f"without playground: {error}")
    (out / PLAYGROUND).unlink(missing_ok=True)
    return []


def _data_docs(project: Project, settings: Settings, facts: Sequence[RunFacts]) -> dict[str, Path]:
    """Return the Data Docs on this machine for the datasets of the runs, by digest."""
    docs_of = {}
    for fact in facts:
        digest = fact.tags.get(runs.DIGEST, "")
        if not (project.data / fact.dataset / CARD).is_file():
            continue
        folder = validation_folder(project, settings, fact.dataset, digest)
        docs = folder / "data_docs" / "index.html"
        if docs.is_file():
            docs_of[digest] = docs
    return docs_of


def _head(facts: Sequence[RunFacts]) -> dict[str, str]:
    """Return the facts at the head of the page."""
    commits = dict.fromkeys(
        tr("{commit} + changes", commit=fact.tags.get(runs.COMMIT, "")[:10])
        if fact.tags.get(runs.DIRTY) == "true"
        else fact.tags.get(runs.COMMIT, "")[:10]
        for fact in facts
    )
    versions = dict.fromkeys(fact.tags.get(runs.DATA_VERSION, tr("none"))[:16] for fact in facts)
    last = datetime.fromtimestamp(max(fact.started for fact in facts) / 1000, UTC)
    return {
        tr("Written (UTC)"): f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        tr("Newest run (UTC)"): f"{last:%Y-%m-%d %H:%M}",
        tr("Git commit"): ", ".join(filter(None, commits)) or tr("none"),
        tr("Version of data/"): ", ".join(versions),
    }
