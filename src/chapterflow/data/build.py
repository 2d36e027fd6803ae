"""Build `data/<name>/` once, atomically, and check it byte for byte."""

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from chapterflow.data.fetch import OnProgress, addresses_of, fetch, validators
from chapterflow.data.source import SourceData, get_source
from chapterflow.data.splits import check_gaps
from chapterflow.data.versioning import can_version, data_version
from chapterflow.environment import Project
from chapterflow.errors import ChapterflowError, ConfigError, DataError
from chapterflow.files import publish, sha256_file, staged
from chapterflow.kinds.dataset import (
    CARD,
    SPLITS,
    Dataset,
    DatasetCard,
    FileRecord,
    Kind,
    open_dataset,
    read_array,
    read_card,
)
from chapterflow.types import Bound, RemoteFile, Strict, Tell, silent


class Prepared(Strict):
    """A dataset on this machine.

    Attributes:
        digest: Digest of its card.
        built: Whether this call built it.
        version: Hash of `data/` in `data.dvc`; None if there is none.
    """

    dataset: str
    digest: str
    built: bool
    version: str | None


def prepare(
    project: Project,
    name: str,
    params: Any,
    *,
    profile: Iterable[str],
    build: bool = True,
    rebuild: bool = False,
    record: bool = True,
    tell: Tell = silent,
) -> Prepared:
    """Bring a dataset onto this machine; record a DVC version once the profile is complete.

    `data.dvc` versions all of `data/`: without the other datasets of the profile, the new version
    would lack them.

    Args:
        params: The dataset's block of `params.yaml`.
        profile: Names of all datasets of the active profile.
        build: Whether to build; if false, a missing or outdated dataset is an error.
        rebuild: Build even if the dataset exists.
        record: Whether to record a version; a caller that prepares several does so at the end.

    Raises:
        DataError: If the source is damaged, or `build` is off and the dataset is missing.
        FetchError: If the source cannot be fetched.
        ChapterflowError: If a dataset is damaged, so that no version is recorded.
    """

    def progress(file: str, received: int, total: int | None) -> None:
        share = f" of {total / 1e6:.1f}" if total else ""
        tell("fetch", f"{file}: {received / 1e6:.1f}{share} MB")

    tell("data", name)
    card, built = ensure_dataset(
        project, name, params, on_progress=progress, build=build, rebuild=rebuild
    )
    complete = all((project.data / other / CARD).is_file() for other in profile)
    if built and record and complete and can_version(project):
        tell("data", "versioning data/ with DVC")
        record_version(project)
    return Prepared(dataset=name, digest=card.digest, built=built, version=data_version(project))


def ensure_dataset(
    project: Project,
    name: str,
    params: Any,
    *,
    on_progress: OnProgress,
    build: bool = True,
    rebuild: bool = False,
) -> tuple[DatasetCard, bool]:
    """Return the card of a dataset, building it if it is missing or `params.yaml` changed.

    Args:
        params: The dataset's block of `params.yaml`.
        build: Whether to build; without it a missing or outdated dataset is an error.
        rebuild: Build even if the dataset exists.

    Returns:
        The card, and whether this call built the dataset.

    Raises:
        DataError: If the source is damaged, or `build` is off and the dataset is missing.
        FetchError: If the source cannot be fetched.
    """
    folder = project.data / name
    wanted = recipe(params)
    locks = project.scratch / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"data-{name}.lock"):
        if not rebuild and (folder / CARD).is_file():
            card = read_card(folder)
            if card.recipe == wanted:
                return card, False
            if build and _data_recipe(card.recipe) == _data_recipe(wanted):
                # Only what the validation accepts has changed, not the data.
                return accept_bounds(folder, wanted.get("accept")), True
        if not build:
            raise DataError(
                f"data/{name} is missing or not what params.yaml describes. "
                "`chapterflow data fetch` builds it."
            )
        downloads = project.scratch / "downloads" / name
        try:
            source = read_source(params, cache=downloads, on_progress=on_progress)
        except DataError:
            # A complete but wrong file would be wrong the next time too.
            shutil.rmtree(downloads, ignore_errors=True)
            raise
        card = _publish(
            source,
            get_source(params.kind).kind,
            name,
            wanted,
            folder,
            project.scratch / "staging",
        )
        shutil.rmtree(downloads, ignore_errors=True)
        return card, True


def _data_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in recipe.items() if key != "accept"}


def accept_bounds(folder: Path, bounds: Mapping[str, Bound] | None) -> DatasetCard:
    """Set the accepted bounds on the card in `folder`, and return the new card."""
    card = read_card(folder)
    recipe = _data_recipe(card.recipe) | ({"accept": dict(bounds)} if bounds else {})
    card = card.model_copy(update={"recipe": recipe})
    with staged(folder / CARD) as new:
        new.write_text(card.to_json(), encoding="utf-8")
    return card


def verify_dataset(folder: Path) -> list[str]:
    """Return one line for each file that differs from the card; none if all match.

    Raises:
        DataError: If there is no readable card.
    """
    card = read_card(folder)
    faults = []
    for name, record in sorted(card.files.items()):
        path = folder / name
        if not path.is_file():
            faults.append(f"{path}: missing.")
        elif path.stat().st_size != record.bytes:
            faults.append(f"{path}: {path.stat().st_size} bytes, but the card says {record.bytes}.")
        elif (received := sha256_file(path)) != record.sha256:
            faults.append(
                f"{path}: content changed: sha256 {received[:12]}..., but the card says "
                f"{record.sha256[:12]}..."
            )
    here = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
    unlisted = here - {CARD, *card.files}
    faults.extend(f"{folder / name}: not on the card." for name in sorted(unlisted))
    return faults


def refuse_damaged_data(project: Project, *, replaced: str | None = None) -> None:
    """Refuse to record a version of `data/` while a dataset differs from its card.

    Args:
        replaced: Dataset that is about to be replaced, so its damage does not matter.

    Raises:
        ChapterflowError: If one does, with the command that restores it.
    """
    damaged = {}
    for card in sorted(project.data.glob(f"*/{CARD}")):
        try:
            faults = verify_dataset(card.parent)
        except DataError as error:
            faults = [str(error)]
        if faults and card.parent.name != replaced:
            damaged[card.parent.name] = faults
    if damaged:
        names = " ".join(damaged)
        lines = [fault for faults in damaged.values() for fault in faults]
        lines.append(
            "No version of data/ is recorded while a dataset is damaged, and data.dvc is "
            f"unchanged. `chapterflow data fetch --force {names}` builds it again."
        )
        raise ChapterflowError("\n".join(lines))


def record_version(project: Project) -> str:
    """Put `data/` under DVC (`dvc add data`): its content into the cache, its hash into `data.dvc`.

    Every dataset is verified first.

    Returns:
        The new version.

    Raises:
        ChapterflowError: If a dataset is damaged, or DVC refuses; `data.dvc` is unchanged.
    """
    locks = project.scratch / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / "dvc.lock"):
        refuse_damaged_data(project)
        done = subprocess.run(
            [sys.executable, "-m", "dvc", "add", "--quiet", "data"],
            cwd=project.root,
            capture_output=True,
            text=True,
            check=False,
        )
    version = data_version(project)
    if done.returncode != 0 or version is None:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ChapterflowError(
            f"DVC could not version data/: {said[-1] if said else f'exit {done.returncode}'}. "
            "Run `dvc add data` for details."
        )
    return version


def open_whole(folder: Path) -> Dataset:
    """Open a dataset after checking every file against its card.

    Raises:
        DataError: If a file differs from the card.
    """
    refuse_damage(folder, verify_dataset(folder))
    return open_dataset(folder)


def refuse_damage(folder: Path, damage: list[str]) -> None:
    """Refuse a dataset with faults (from `verify_dataset`), and say how to restore it.

    Raises:
        DataError: If there are any.
    """
    if damage:
        raise DataError(
            "\n".join([*damage, f"`chapterflow data fetch --force {folder.name}` builds it again."])
        )


def _publish(
    source: SourceData,
    kind: Kind,
    name: str,
    wanted: dict[str, Any],
    folder: Path,
    staging: Path,
) -> DatasetCard:
    """Write everything into a temporary folder, then rename it: readers see all or nothing."""
    staging.mkdir(parents=True, exist_ok=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=staging) as temporary:
        fresh = Path(temporary) / name
        fresh.mkdir()
        try:
            files = {
                f"{array}.npy": _write(
                    fresh / f"{array}.npy",
                    lambda out, values=values: np.save(out, values, allow_pickle=False),
                )
                for array, values in source.arrays.items()
            }
            for path, original in source.files.items():
                (fresh / path).parent.mkdir(parents=True, exist_ok=True)
                with original.open("rb") as read:
                    files[path] = _write(
                        fresh / path, lambda out, read=read: shutil.copyfileobj(read, out)
                    )
            card = _card(source, kind, name, wanted, files, fresh)
            _write(fresh / CARD, lambda out: out.write(card.to_json().encode()))
            publish(fresh, folder)
        except OSError as error:
            raise ChapterflowError(
                f"data/{name} cannot be written: {error.strerror or error}. Nothing was changed; "
                "free some space and run the command again."
            ) from None
    return card


def _card(
    source: SourceData,
    kind: Kind,
    name: str,
    wanted: dict[str, Any],
    files: dict[str, FileRecord],
    folder: Path,
) -> DatasetCard:
    split = source.arrays["split"]
    if kind.task.classes and "labels" in source.arrays:
        check_gaps(source.arrays["labels"], split, source.classes)
    card = DatasetCard(
        name=name,
        kind=kind.name,
        title=source.title,
        source=source.source,
        licence=source.licence,
        shape=list(source.shape),
        classes=source.classes,
        value_max=float(source.value_max),
        counts={name: int(np.count_nonzero(split == code)) for code, name in enumerate(SPLITS)},
        files=files,
        test_digest="",
        facts=dict(source.facts),
        recipe=wanted,
    )
    wrong = {*kind.data.ARRAYS, *kind.data.MORE_ARRAYS} ^ source.arrays.keys()
    if wrong:
        raise ConfigError(
            f"The source of {name} must give the arrays of the kind {kind.name}: "
            f"{', '.join(sorted({*kind.data.ARRAYS, *kind.data.MORE_ARRAYS}))}. "
            f"Received: {', '.join(sorted(source.arrays))}"
        )
    written = {array: read_array(folder, array) for array in source.arrays}
    test = hashlib.sha256()
    dataset = kind.data(card, folder, written)
    for piece in dataset.content("test"):
        test.update(piece)
    return card.model_copy(
        update={"test_digest": test.hexdigest(), "probes": dataset.choose_probes()}
    )


def _write(path: Path, write: Any) -> FileRecord:
    with path.open("wb") as out:
        write(out)
    return FileRecord(bytes=path.stat().st_size, sha256=sha256_file(path))


def recipe(params: Any) -> dict[str, Any]:
    """Return what decides a dataset's bytes: if it differs from the card's, the data are rebuilt.

    Addresses are left out: they say where bytes come from, not which bytes. So are the bounds of
    archives. Options that are not
    set are left out too, so that a new option keeps the recipes of older data. After a change of
    the content of a path, `chapterflow data fetch --force NAME` rebuilds.
    """
    left_out = {"path", "mirror", "upstream", "title", "licence", "max_bytes", "max_members"}
    kept: dict[str, Any] = params.model_dump(mode="json", exclude=left_out, exclude_none=True)
    return kept


def read_source(params: Any, *, cache: Path, on_progress: OnProgress) -> SourceData:
    """Read a dataset from its source, fetching it if it is not on this machine.

    Args:
        params: The dataset's block of `params.yaml`.
        cache: Folder for downloads.
        on_progress: Called with downloaded bytes.

    Raises:
        DataError: If the source is damaged or not what `params.yaml` says.
        FetchError: If it cannot be fetched.
    """

    def local(file: RemoteFile) -> Path:
        return fetch(
            file,
            mirror_folder=getattr(params, "mirror", None),
            upstream=getattr(params, "upstream", ()),
            cache=cache,
            on_progress=on_progress,
        )

    return get_source(params.kind).read(params, local)


def source_state(params: Any) -> str | None:
    """Return a hash that changes when the content of a dataset's source may have changed.

    It covers size and times of local files, and what servers say of files without a pinned hash.

    Args:
        params: The dataset's block of `params.yaml`.

    Returns:
        The hash; None if the content cannot change: generated data, and files with a pinned hash.

    Raises:
        FetchError: If a server does not answer.
    """
    facts: list[Any] = []
    if path := getattr(params, "path", None):
        facts.append(_stat(Path(path).expanduser().absolute()))
    for file in _files_of(params):
        if file.sha256 is not None:
            continue
        for address in addresses_of(
            file.name, getattr(params, "mirror", None), getattr(params, "upstream", ())
        ):
            facts.append(_stat(address) if isinstance(address, Path) else validators(address))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest() if facts else None


def _files_of(value: Any) -> Iterable[RemoteFile]:
    """Yield the files of a source that its block names, however deep."""
    if isinstance(value, RemoteFile):
        yield value
    elif isinstance(value, Strict):
        for name in type(value).model_fields:
            yield from _files_of(getattr(value, name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _files_of(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _files_of(item)


def _stat(path: Path) -> list[Any]:
    """Return name, size and times of a file, or of all files below a folder."""
    places = [path, *sorted(path.rglob("*"))] if path.is_dir() else [path]
    facts = []
    for place in places:
        with contextlib.suppress(OSError):  # it has gone meanwhile
            status = place.stat()
            # A folder's times change with every temporary file in it.
            times = [] if place.is_dir() else [status.st_mtime_ns, status.st_ctime_ns]
            size = 0 if place.is_dir() else status.st_size
            facts.append([str(place), size, *times])
    return facts
