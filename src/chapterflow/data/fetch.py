"""Fetch the files of a source from a mirror or upstream: checked, resumed, published whole."""

import gzip
import hashlib
import http.client
import importlib
import importlib.util
import json
import os
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, urlsplit, urlunsplit
from urllib.request import url2pathname

from chapterflow.errors import ConfigError, DataError, FetchError
from chapterflow.files import open_regular, publish
from chapterflow.types import RemoteFile

#: Called with the file's name, bytes received so far, and total bytes if known.
OnProgress = Callable[[str, int, int | None], None]
#: Path, `file://` or `http(s)://` address that replaces every upstream.
MIRROR = "CHAPTERFLOW_MIRROR"


def addresses_of(name: str, mirror_folder: str | None, upstream: Sequence[str]) -> list[Path | str]:
    """Return where to look for a file, in order: a `Path`, or the text of an http(s) address."""
    pieces = path_pieces(name, "The name of a file")
    mirror = os.environ.get(MIRROR)
    if not mirror or mirror_folder is None:
        return [_below(base, pieces, "A base address of `upstream`") for base in upstream]
    root = _below(mirror, [], MIRROR)
    if isinstance(root, Path) and not root.is_dir():
        raise ConfigError(
            f"{MIRROR} must name an existing folder, or an http:// or https:// address. "
            f"Received: {root}"
        )
    return [_below(mirror, [*path_pieces(mirror_folder.strip("/"), "`mirror`"), *pieces], MIRROR)]


def path_pieces(relative: str, what: str) -> list[str]:
    """Return the parts of a relative path, refusing those that lead out of the folder."""
    pieces = relative.split("/")
    if any(piece in ("", ".", "..") or re.search(r"[\\\x00-\x1f\x7f]", piece) for piece in pieces):
        raise ConfigError(
            f"{what} must be a relative path without '.', '..' and empty parts. "
            f"Received: {relative!r}"
        )
    return pieces


def _below(base: str, pieces: Sequence[str], what: str) -> Path | str:
    """Return the address of a relative path below a base address."""
    if "://" not in base:
        return Path(base).expanduser().absolute().joinpath(*pieces)
    scheme = base.partition("://")[0].lower()
    try:
        split = urlsplit(base)
    except ValueError:
        scheme = "invalid"
    if scheme == "file" and split.netloc in ("", "localhost"):
        return Path(url2pathname(split.path)).joinpath(*pieces)
    if scheme == "package" and split.netloc.isidentifier():
        inside = path_pieces(split.path.strip("/"), what) if split.path.strip("/") else []
        return _package_folder(split.netloc).joinpath(*inside, *pieces)
    if scheme in ("http", "https") and split.netloc:
        path = "/".join([split.path.rstrip("/"), *map(quote, pieces)])
        return urlunsplit(split._replace(path=path, fragment=""))
    raise ConfigError(
        f"{what} must be a path, file:///path, package://name/path, http://host/path or "
        "https://host/path. "
        f"Received: {visible(base)}"
    )


def _package_folder(package: str) -> Path:
    """Return the folder of an installed package without running its code."""
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec is not None else None
    if not folders:
        raise ConfigError(
            f"package://{package} must name an installed package. Received: no such package"
        )
    return Path(next(iter(folders)))


def visible(address: Path | str) -> str:
    """Return an address as messages may show it: no user, no password, no query."""
    text = str(address)
    if "://" not in text:
        return text
    scheme, _, rest = text.partition("://")
    host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


#: Seconds to connect to a server, and to wait for its answer about a file.
ASKING = (5.0, 20.0)


def validators(url: str) -> list[str]:
    """Return what a server says of the version of a file: ETag, time and size.

    Raises:
        FetchError: If it does not answer, or says nothing of the version.
    """
    import requests

    try:
        with requests.head(url, timeout=ASKING, allow_redirects=True) as response:
            response.raise_for_status()
            names = ("ETag", "Last-Modified", "Content-Length")
            facts = [response.headers.get(name, "") for name in names]
    except (requests.RequestException, OSError) as error:
        raise FetchError(
            f"{visible(url)} does not say whether it has changed. Received: {type(error).__name__}"
        ) from None
    if not any(facts):
        raise FetchError(
            f"{visible(url)} must say which version of the file it has (ETag, Last-Modified or "
            "Content-Length). Received: none of them. Fetch it by hand with `chapterflow data "
            "fetch --force`"
        )
    return facts


#: Largest decompressed size of a file for which `params.yaml` gives none: 4 GiB.
MAX_BYTES = 4 << 30


@contextmanager
def open_decompressed(path: Path) -> Iterator[BinaryIO]:
    """Open a file, gzip-compressed or not, for reading its decompressed bytes.

    Raises:
        DataError: On entering or while reading, if the file cannot be read or is damaged.
    """
    name = path.name.removesuffix(".part")
    try:
        with open_regular(path) as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if compressed:
                with gzip.GzipFile(fileobj=raw) as stream:
                    yield stream  # type: ignore[misc]
            else:
                yield raw
    except EOFError:
        raise DataError(f"{name} must be whole gzip data. Received: a truncated file") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{name} must be intact gzip data. Received: {error}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def verify(path: Path, file: RemoteFile) -> None:
    """Check size and hash of the decompressed bytes, without keeping them in memory."""
    limit = file.bytes or MAX_BYTES
    digest = hashlib.sha256()
    size = 0
    with open_decompressed(path) as stream:
        while chunk := stream.read(1 << 20):
            size += len(chunk)
            if size > limit:  # A decompression bomb ends here.
                break
            digest.update(chunk)
    if size > limit or (file.bytes is not None and size != file.bytes):
        received = f"more than {limit:,}" if size > limit else f"{size:,}"
        most = "" if file.bytes else "at most "
        raise DataError(
            f"decompressed, {file.name} must have {most}{limit:,} bytes. Received: {received}"
        )
    if file.sha256 is not None and digest.hexdigest() != file.sha256:
        raise DataError(
            f"decompressed, {file.name} must have sha256 {file.sha256}. "
            f"Received: {digest.hexdigest()}"
        )


CHUNK = 1 << 15
#: Called with the bytes in the partial file so far, and the total if known.
Report = Callable[[int, int | None], None]


class Failed(Exception):
    """An address did not give the file; `retry` says whether another attempt may help."""

    def __init__(self, reason: str, *, retry: bool = False) -> None:
        super().__init__(reason)
        self.retry = retry


def copy(source: Path, part: Path, cap: int, report: Report) -> None:
    """Copy a local file into the partial file, always from its start."""
    if not source.is_file():
        raise Failed("there is no such file")
    discard(part)
    part.touch()
    _append(_read_chunks(source), part, source.stat().st_size, cap, report)


def request(url: str, part: Path, cap: int, report: Report, timeout: tuple[float, float]) -> None:
    """Request the missing rest of the partial file once, and append it."""
    import requests
    from urllib3.exceptions import HTTPError

    known = _Partial.read(part, url)
    if known and known.offset == known.total:
        return  # Killed between the last byte and the rename.
    # `identity`, and raw bytes below: the cache keeps the file, not its decoded content.
    headers = {"Accept-Encoding": "identity"}
    if known:
        headers |= {"Range": f"bytes={known.offset}-", "If-Range": known.validator}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
            status = response.status_code
            if (
                status == 200
            ):  # There is nothing to resume, or the server cannot resume this version.
                total = _begin(part, url, response.headers)
            elif known and status == 206 and known.continued_by(response.headers):
                total = known.total
            elif known and status in (206, 416):
                discard(part)
                response.close()
                request(url, part, cap, report, timeout)
                return
            else:
                phrase = f"{status} {http.client.responses.get(status, '')}".rstrip()
                raise Failed(f"answered {phrase}", retry=status >= 500 or status in (408, 429))
            if total is not None and total > cap:
                raise DataError(f"it must have at most {cap:,} bytes. Received: {total:,}")
            body = response.raw.stream(CHUNK, decode_content=False)
            size = _append(body, part, total, cap, report)
            if total is not None and size != total:
                raise Failed(f"ended after {size:,} of {total:,} bytes", retry=True)
    except (requests.RequestException, HTTPError) as error:
        raise _network_failure(error) from None


def _append(
    chunks: Iterable[bytes], part: Path, total: int | None, cap: int, report: Report
) -> int:
    """Write chunks to the end of a partial file and return its size."""
    size = part.stat().st_size
    report(size, total)
    with part.open("ab") as out:
        for chunk in chunks:
            size += len(chunk)
            if size > cap:
                raise DataError(f"it must have at most {cap:,} bytes. Received: more")
            out.write(chunk)
            report(size, total)
    return size


def _read_chunks(source: Path) -> Iterator[bytes]:
    """Yield a local file's bytes; its faults belong to the source, not to the cache."""
    try:
        with source.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except OSError as error:
        raise Failed(f"it cannot be read ({error.strerror})") from None


def _network_failure(error: Exception) -> Failed:
    """Return what a network error means.

    The phrase is made of the cause that the system named, because the text of the error itself may
    hold the address with its credentials.
    """
    import requests
    import urllib3

    broken = (requests.ConnectionError, requests.Timeout, urllib3.exceptions.ProtocolError)
    retry = isinstance(error, (*broken, urllib3.exceptions.TimeoutError))
    # Waiting does not repair a wrong certificate.
    retry = retry and not isinstance(error, requests.exceptions.SSLError)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TimeoutError) or "Timeout" in type(cause).__name__:
            return Failed("timed out", retry=retry)
        if isinstance(cause, OSError) and cause.strerror:
            return Failed(cause.strerror, retry=retry)
        cause = cause.__cause__ or cause.__context__
    reason = "the connection broke off" if retry else "the request failed"
    return Failed(f"{reason} ({type(error).__name__})", retry=retry)


@dataclass(frozen=True)
class _Partial:
    """A partial file with a note that says which file it begins (RFC 9110, sections 13 and 14).

    Attributes:
        offset: Bytes so far.
        validator: Strong ETag or date that the server gave for this version of the file.
        total: Length of the whole file, if the server sent it.
    """

    offset: int
    validator: str
    total: int | None

    @classmethod
    def read(cls, part: Path, url: str) -> "_Partial | None":
        """Return the part that can be resumed from `url`; None if there is none."""
        try:
            note = json.loads(_note(part).read_text(encoding="utf-8"))
            offset = part.stat().st_size
            if note["address"] != _address_hash(url) or offset == 0:
                return None
            known = cls(offset, note["validator"], note["total"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not isinstance(known.validator, str) or not isinstance(known.total, int | None):
            return None
        return known

    def continued_by(self, headers: Mapping[str, str]) -> bool:
        """Tell whether a 206 answer holds the bytes that follow, of the same version."""
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
        if not match or int(match[1]) != self.offset:
            return False
        if match[2] != "*" and self.total is not None and int(match[2]) != self.total:
            return False
        # Some servers honour Range and ignore If-Range; the validator of the answer reveals them.
        return _validator(headers) in (None, self.validator)


def _begin(part: Path, url: str, headers: Mapping[str, str]) -> int | None:
    """Empty the partial file, note what follows, and return its length if the server sent it."""
    discard(part)
    part.touch()
    length = headers.get("Content-Length", "")
    chunked = "Transfer-Encoding" in headers
    total = int(length) if re.fullmatch(r"[0-9]{1,18}", length) and not chunked else None
    validator = _validator(headers)
    if validator:
        note = {"address": _address_hash(url), "validator": validator, "total": total}
        _note(part).write_text(json.dumps(note), encoding="utf-8")
    return total


def _validator(headers: Mapping[str, str]) -> str | None:
    """Return what identifies this version of a file: If-Range takes no weak ETag."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def _address_hash(url: str) -> str:
    """Return a hash of an address: its credentials must not be written to disk."""
    return hashlib.sha256(url.encode()).hexdigest()


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def discard(part: Path) -> None:
    """Remove a partial file. Its note goes first: it must never describe other bytes."""
    _note(part).unlink(missing_ok=True)
    part.unlink(missing_ok=True)


#: Called with the file's name, its bytes in the cache so far, and the total if known.
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Policy:
    """How often and how long to try an address.

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
    """Return the path of a file in `cache`, fetching it unless it is already there intact.

    The file is kept as it came (compressed or not); `open_decompressed` reads either. An
    interrupted download stays as `<name>.part`, and the next call resumes it.

    Args:
        file: Name, and hash and size of the decompressed bytes where they are known.
        mirror_folder: Folder of the file below `CHAPTERFLOW_MIRROR`.
        upstream: Base addresses, tried in order where no mirror is set.
        cache: Folder of the fetched files; several processes may share it.
        on_progress: Called with name, bytes so far and total (None where unknown).
        policy: Attempts, pauses and timeouts.

    Raises:
        ConfigError: If an address or a name cannot be used.
        DataError: If every address gave another file.
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
        # ENOSPC, EDQUOT, EFBIG (a limit on file size), a read-only folder: the bytes so far are
        # a valid beginning of the file, so they stay.
        raise FetchError(
            f"{file.name} must be written to {target.parent}. Received: "
            f"{error.strerror or type(error).__name__}. Make room or give access, then run the "
            "command again: it resumes."
        ) from None
    return target


def _is_cached(target: Path, file: RemoteFile) -> bool:
    """Return whether the intact file is in the cache; remove a damaged one."""
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
    """Publish the file from the first address that gives it, or report each answer."""
    part = target.with_name(f"{target.name}.part")
    limit = file.bytes or MAX_BYTES
    # Compression adds a little to what cannot be compressed.
    cap = limit + limit // 100 + (1 << 16)
    report = partial(on_progress, file.name)
    said: list[str] = []
    error_class: type[DataError | FetchError] = DataError
    for address in addresses:
        try:
            if isinstance(address, Path):
                copy(address, part, cap, report)
            else:
                _download(address, part, cap, report, policy)
            verify(part, file)
            publish(part, target)
            discard(part)
            return
        except DataError as error:
            discard(part)
            said.append(f"{visible(address)}: {error}")
        except Failed as error:
            error_class = FetchError
            said.append(f"{visible(address)}: {error}")
    answers = "; ".join(said)
    if error_class is DataError:
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
