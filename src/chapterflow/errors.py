"""Errors that a user can cause or fix, each with the exit code of the command line."""

from __future__ import annotations

import difflib
import errno
import os
import re
import shutil
import tempfile
import traceback
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote


class ChapterflowError(Exception):
    """A failure in one line: what is wrong, what was received, what to do.

    Attributes:
        exit_code: Exit status of the command line; 1 if there is none more precise.
    """

    exit_code = 1

    def __str__(self) -> str:
        """Return the message; it goes to screens, logs and stores, so it has no secrets."""
        return redacted(super().__str__())


class ConfigError(ChapterflowError):
    """`params.yaml`, an option or a name is wrong; no work has started."""

    exit_code = 2


class DataError(ChapterflowError):
    """Input data are damaged, or differ from their card or source."""

    exit_code = 2


class FetchError(ChapterflowError):
    """A download failed; running the command again resumes it."""


class ValidationFailed(ChapterflowError):
    """The data violate an expectation; no model was trained on them."""

    exit_code = 3


class PromotionRefused(ChapterflowError):
    """A version may not take an alias: a gate failed, or another process changed the alias."""

    exit_code = 4


class ImplausibleMetric(ChapterflowError):
    """A metric is not finite, lies outside its range, or its counts do not add up."""


class DiskFull(ChapterflowError):
    """A disk has too little space; nothing that was finished is lost."""


class StoreError(ChapterflowError):
    """The tracking store cannot be used in its present state."""


class StoreUnavailable(StoreError):
    """The tracking store is locked or unreachable; a retry may succeed."""


def describe(error: BaseException, folder: Path) -> str:
    """Return an error in a few words, with the last line of a folder's files in its traceback.

    Args:
        error: Any exception; the message of a `ChapterflowError` is returned unchanged.
        folder: Folder with the user's code.
    """
    if isinstance(error, ChapterflowError):
        return str(error)
    places = [(place.filename, place.lineno) for place in traceback.extract_tb(error.__traceback__)]
    message = str(error)
    if isinstance(error, SyntaxError):
        places.append((error.filename or "", error.lineno))
        message = error.msg
    own = [place for place in places if Path(place[0]).is_relative_to(folder)]
    where = f" ({Path(own[-1][0]).name}, line {own[-1][1]})" if own else ""
    return f"{type(error).__name__}: {message}{where}"


#: What a run of a small model writes, in bytes: pictures, tables, records.
SMALL_RUN = 25_000_000


def check_space(folder: Path, needed: int, purpose: str) -> None:
    """Raise a `DiskFull` if the disk of a folder has fewer than `needed` bytes free.

    Some libraries crash when a write fails, and pages of a memory map cannot report it at all.

    Args:
        folder: Folder that is written to; it need not exist yet.
        purpose: What needs the space, such as `training dnn`.
    """
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if shutil.disk_usage(place).free < needed:
        raise _full(place, f"{purpose} needs {needed / 1e6:.0f} MB", needed)


def disk_full(error: BaseException, place: Path | None = None) -> DiskFull | None:
    """Return the failure of a write to a full disk in one line; None if the error is another one.

    Args:
        error: Any exception; its causes count too.
        place: What was written, if the caller knows it.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, DiskFull):
        code = getattr(cause, "errno", None)
        if code in (errno.ENOSPC, errno.EDQUOT) or _FULL.search(str(cause)):
            name = getattr(cause, "filename", None)
            return _full(Path(name) if isinstance(name, str) else place, "a write failed")
        cause = cause.__cause__ or cause.__context__
    return cause


#: SQLite, HDF5 and TensorFlow hide the number of the error in a text.
_FULL = re.compile(r"No space left on device|disk is full|[Dd]isk quota exceeded")


def _full(place: Path | None, reason: str, needed: int = SMALL_RUN) -> DiskFull:
    if place is None:  # the fullest of the disks that are written to
        named = (os.environ.get(name) for name in ("CHAPTERFLOW_PROJECT", "PREFECT_HOME"))
        folders = [Path.cwd(), Path(tempfile.gettempdir()), *(Path(name) for name in named if name)]
        existing = [folder for folder in folders if folder.exists()]
        place = min(existing, key=lambda folder: shutil.disk_usage(folder).free)
    place = next(path for path in (place, *place.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    mount = next(path for path in (place.resolve(), *place.resolve().parents) if path.is_mount())
    return DiskFull(
        f"The disk at {mount} is full. Received: {free / 1e6:.1f} MB free; {reason}. Free at least "
        f"{max(needed, SMALL_RUN) / 1e6:.0f} MB, for example with `chapterflow data prune`, and "
        "run the same command again: finished epochs, logged models and aliases are safe."
    )


#: Environment variables whose value is a secret.
_SECRET_NAMES = re.compile(r"PASSWORD|TOKEN|SECRET|API_KEY|AUTH_STRING")
#: User and password of an address.
_LOGIN = re.compile(r"(?<=://)[^/@\s'\"]*@")
#: Shorter values are no secrets worth the name, and replacing them would garble other text.
_SHORTEST_SECRET = 4


def redacted(text: str) -> str:
    """Return a text without passwords; all text that leaves the process goes through here.

    That is the login in any address, and wherever they occur the values of environment variables
    that hold secrets, and the passwords in those that hold addresses.
    """
    for secret in _secrets():
        text = text.replace(secret, "***")
    return _LOGIN.sub("***@", text)


def _secrets() -> list[str]:
    """Return the secrets in the environment, the longest first."""
    secrets = set()
    for name, value in os.environ.items():
        if _SECRET_NAMES.search(name):
            secrets.add(value)
        elif "://" in value and "@" in value:
            password = value.partition("://")[2].rpartition("@")[0].partition(":")[2]
            secrets |= {password, unquote(password)}
    return sorted((s for s in secrets if len(s) >= _SHORTEST_SECRET), key=len, reverse=True)


def nearest(name: object, valid: Iterable[str]) -> str:
    """Return ` Did you mean ...?`, or the valid names if none is similar."""
    valid = sorted(valid)
    lower = {candidate.lower(): candidate for candidate in valid}
    given = str(name)[:100].lower()

    def likeness(candidate: str) -> tuple[float, bool]:
        # The first letter breaks ties: `cn` is more likely `cnn` than `gcn`.
        ratio = difflib.SequenceMatcher(None, candidate, given).ratio()
        return ratio, candidate[:1] == given[:1]

    close = difflib.get_close_matches(given, lower, cutoff=0.5)
    if close:
        return f" Did you mean {lower[max(close, key=likeness)]!r}?"
    return f" Valid: {', '.join(valid)}." if valid else ""
