"""Bring a file from a folder or an HTTP server into a partial file, which can be resumed."""

import hashlib
import http.client
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from chapterflow.errors import DataError

CHUNK = 1 << 15
#: Takes the bytes that the partial file holds so far, and their number at the end.
Report = Callable[[int, int | None], None]


class Failed(Exception):
    """An address did not give the file; `retry` tells whether asking it again may help."""

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
    """Ask once for what the partial file lacks, and append it."""
    import requests
    from urllib3.exceptions import HTTPError

    known = _Partial.read(part, url)
    if known and known.offset == known.total:
        return  # Killed between the last byte and the rename.
    # `identity`, and raw bytes below: the cache holds the file and not what a decoder makes of it.
    headers = {"Accept-Encoding": "identity"}
    if known:
        headers |= {"Range": f"bytes={known.offset}-", "If-Range": known.validator}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
            status = response.status_code
            if status == 200:  # Nothing to resume, or the server cannot or must not.
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
    """Yield a local file's bytes; its faults are the source's, not those of the cache."""
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
    # A certificate that is wrong now is wrong in a second too.
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
    """A partial file of which is known what it is the beginning of (RFC 9110, sections 13 and 14).

    Attributes:
        offset: Bytes that are there.
        validator: Strong ETag or date that the server gave for this version of the file.
        total: Length of the whole file, where the server told it.
    """

    offset: int
    validator: str
    total: int | None

    @classmethod
    def read(cls, part: Path, url: str) -> "_Partial | None":
        """Return what can be resumed from `url`: None where that is nothing."""
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
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
        if not found or int(found[1]) != self.offset:
            return False
        if found[2] != "*" and self.total is not None and int(found[2]) != self.total:
            return False
        # Some servers honour Range and ignore If-Range; the validator of the answer unmasks them.
        return _validator(headers) in (None, self.validator)


def _begin(part: Path, url: str, headers: Mapping[str, str]) -> int | None:
    """Empty the partial file, note what will follow, and return its length where that is told."""
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
    """Return what stands for an address on disk, where its credentials must not lie."""
    return hashlib.sha256(url.encode()).hexdigest()


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def discard(part: Path) -> None:
    """Remove a partial file. Its note goes first: it must never describe other bytes."""
    _note(part).unlink(missing_ok=True)
    part.unlink(missing_ok=True)
