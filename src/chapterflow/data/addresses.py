"""Where a file may be fetched: below the mirror if one is set, else below each upstream address."""

import importlib.util
import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit
from urllib.request import url2pathname

from chapterflow.errors import ConfigError

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
    """Return the parts of a relative path, refusing those that lead elsewhere."""
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
    """Return the folder of an installed package, found without running its code."""
    found = importlib.util.find_spec(package)
    folders = found.submodule_search_locations if found is not None else None
    if not folders:
        raise ConfigError(
            f"package://{package} must name an installed package. Received: no such package here"
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
