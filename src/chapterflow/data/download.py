"""Fetch the files of a source, from a mirror or upstream: checked, resumable, published whole."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from chapterflow.data.addresses import MIRROR, addresses_of, path_pieces, visible
from chapterflow.data.compressed import MAX_BYTES, verify
from chapterflow.data.transfer import Failed, Report, copy, discard, request
from chapterflow.errors import DataError, FetchError
from chapterflow.settings.types import RemoteFile

#: Takes the file's name, the bytes that lie in the cache so far, and their number at the end.
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Policy:
    """How stubbornly an address is asked.

    Attributes:
        attempts: Requests to one address before the next one is tried.
        backoff: Seconds before the second attempt; they double with each further one.
        timeout: Seconds to wait for a connection, and for the next bytes.
    """

    attempts: int = 4
    backoff: float = 0.5
    timeout: tuple[float, float] = (10.0, 30.0)


def _silent(name: str, received: int, total: int | None) -> None:
    """Report no progress."""


def fetch(
    file: RemoteFile,
    *,
    mirror_folder: str | None,
    upstream: Sequence[str],
    cache: Path,
    on_progress: Progress = _silent,
    policy: Policy = Policy(),
) -> Path:
    """Return the path of a file in `cache`, fetching it unless it already lies there intact.

    The file is kept as it came (compressed or not); `open_decompressed` reads either. An
    interrupted download stays beside it as `<name>.part` and is continued by the next call.

    Args:
        file: Name, and hash and size of the decompressed bytes where they are known.
        mirror_folder: Folder of the file below `CHAPTERFLOW_MIRROR`.
        upstream: Base addresses, tried in order where no mirror is set.
        cache: Folder of the fetched files; several processes may share it.
        on_progress: Called with name, bytes so far and total (None where unknown).
        policy: Attempts, pauses and timeouts.

    Raises:
        ConfigError: If an address or a name cannot be used.
        DataError: If every address gave something else than the file.
        FetchError: If no address gave the file, or the cache cannot hold it.
    """
    from filelock import FileLock

    target = cache.joinpath(*path_pieces(file.name, "The name of a file"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not _is_cached(target, file):
                addresses = addresses_of(file.name, mirror_folder, upstream)
                _fetch_first(file, addresses, target, on_progress, policy)
    except OSError as error:
        # ENOSPC, EDQUOT, EFBIG (a limit on file size), a read-only folder: what arrived so far is
        # a true beginning of the file, so it stays.
        raise FetchError(
            f"{file.name} must be written to {target.parent}. Received: "
            f"{error.strerror or type(error).__name__}. Make room or give access, then run the "
            "command again: it resumes."
        ) from None
    return target


def _is_cached(target: Path, file: RemoteFile) -> bool:
    """Tell whether the intact file lies in the cache; remove a damaged one."""
    if not target.is_file():
        return False
    try:
        verify(target, file)
    except DataError:
        target.unlink()
        return False
    return True


def _fetch_first(
    file: RemoteFile,
    addresses: Sequence[Path | str],
    target: Path,
    on_progress: Progress,
    policy: Policy,
) -> None:
    """Publish the file from the first address that gives it, or tell what each one said."""
    part = target.with_name(f"{target.name}.part")
    limit = file.bytes or MAX_BYTES
    # Compression adds a little to what cannot be compressed.
    cap = limit + limit // 100 + (1 << 16)
    report = partial(on_progress, file.name)
    said: list[str] = []
    kind: type[DataError | FetchError] = DataError
    for address in addresses:
        try:
            if isinstance(address, Path):
                copy(address, part, cap, report)
            else:
                _download(address, part, cap, report, policy)
            verify(part, file)
            _publish(part, target)
            return
        except DataError as error:
            discard(part)
            said.append(f"{visible(address)}: {error}")
        except Failed as error:
            kind = FetchError
            said.append(f"{visible(address)}: {error}")
    answers = "; ".join(said)
    if kind is DataError:
        raise DataError(
            f"{file.name} is damaged or not the file that params.yaml describes. {answers}. It was "
            f"not kept: run the command again, set {MIRROR} to another source, or correct sha256 "
            "and bytes if the file was changed on purpose."
        )
    raise FetchError(
        f"{file.name} could not be fetched. {answers}. Run the command again to resume, or set "
        f"{MIRROR} to a folder or address that has it."
    )


def _download(url: str, part: Path, cap: int, report: Report, policy: Policy) -> None:
    """Bring the partial file to its full length, over as many requests as the policy allows."""
    for attempt in range(1, policy.attempts + 1):
        try:
            request(url, part, cap, report, policy.timeout)
            return
        except Failed as error:
            if not error.retry:
                raise
            if attempt == policy.attempts:
                raise Failed(f"{error} (attempts: {attempt})") from None
        time.sleep(policy.backoff * 2 ** (attempt - 1))


def _publish(part: Path, target: Path) -> None:
    """Move a checked file to its final name; after a power cut it is there whole or not at all."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, target)
    discard(part)
    if os.name != "posix":  # Elsewhere a folder cannot be opened, and need not be.
        return
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
