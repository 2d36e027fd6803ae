"""Unpack a zip archive from anywhere: nothing lands outside its folder, and size is bounded."""

import errno
import lzma
import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chapterflow.errors import DataError
from chapterflow.files import open_regular

#: Largest sum of the decompressed sizes: 4 GiB.
MAX_BYTES = 4 << 30
#: Largest number of members, folders among them.
MAX_MEMBERS = 100_000
#: Largest ratio of the decompressed sizes to the size of the archive, beyond `SMALL` bytes. Text
#: reaches 20, photos 1, and a bomb of zeros 1,000.
MAX_RATIO, SMALL = 100, 256 << 20
#: Bytes of the directory of an archive per member: 46, a name and extra fields.
ENTRY_BYTES = 512
#: Bytes that are decompressed at a time.
CHUNK = 1 << 20
#: Flag bits of a member: encrypted, and with a name in UTF-8.
ENCRYPTED, UTF_8 = 0x1, 0x800
#: Encodings of names that old programs wrote without saying which, likely ones first.
ENCODINGS = {"cp949": "Korean", "cp932": "Japanese", "gb18030": "Chinese", "cp437": "DOS"}
#: Folders that macOS adds to archives.
LITTER = "__MACOSX"
#: What `zipfile` raises for a damaged archive, the last three for impossible places and sizes.
_DAMAGE = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    OverflowError,
    struct.error,
)


@contextmanager
def open_zip(
    path: Path, *, max_members: int = MAX_MEMBERS, form: str = "zip archive"
) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive for reading, having bounded the number of its members.

    Args:
        form: Name of the form of archive, for messages.

    Raises:
        DataError: On entering or while reading, if the file is no intact zip archive, or has more
            members.
        OSError: If it cannot be read.
    """
    try:
        with open_regular(path) as file:
            # The record that `zipfile` goes by, which makes an object of each entry on opening.
            end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
            if end is not None:
                size, count = end[5], end[4]  # Bytes and entries of the directory.
                if count > max_members or size > max_members * ENTRY_BYTES:
                    raise DataError(
                        f"{path.name} must hold at most {max_members:,} members. Received: "
                        f"{max(count, size // ENTRY_BYTES):,}. Unpack it yourself and give the "
                        "folder, or set `max_members` in its block."
                    )
            with zipfile.ZipFile(file) as archive:
                yield archive
    # What zipfile raises for an unknown compression, a password, a name that is not in UTF-8.
    except (NotImplementedError, RuntimeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path.name} must be a {form} that Python can read. Received: {error}. "
            "Pack it again with deflate."
        ) from None
    except _DAMAGE as error:
        raise DataError(f"{path.name} must be an intact {form}. Received: {error}") from None
    except OSError as error:
        if error.errno != errno.EINVAL:  # A place before the beginning of the file.
            raise
        raise DataError(
            f"{path.name} must be an intact {form}. Received: an impossible place"
        ) from None


def extract_zip(
    path: Path,
    into: Path,
    *,
    max_bytes: int | None = None,
    max_members: int | None = None,
    names: str | None = None,
) -> list[Path]:
    """Unpack a zip archive, member by member, without holding one in memory.

    All names and sizes are checked before the first byte is written. The sizes that the archive
    declares are not trusted: the decompressed bytes are counted as they come. Names are NFC, and
    what macOS adds (`__MACOSX`) is left out.

    Args:
        into: Folder of the unpacked files; created if missing.
        max_bytes: Largest sum of the decompressed sizes; `MAX_BYTES` by default.
        max_members: Largest number of members, folders among them; `MAX_MEMBERS` by default.
        names: Encoding of the names that are not declared to be UTF-8.

    Returns:
        The unpacked files, in the archive's order; folders are created but not listed.

    Raises:
        DataError: If the file is no intact zip archive, holds more than allowed, an encrypted
            member, a link or another special file, two members of one name, or a name that is
            absolute, leads out of the folder (`..`), is not portable (a drive, a backslash), or is
            in an unknown encoding.
        OSError: If the files cannot be written.
    """
    max_bytes = max_bytes or MAX_BYTES
    with open_zip(path, max_members=max_members or MAX_MEMBERS) as archive:
        members = archive.infolist()
        claimed = sum(member.file_size for member in members)
        check_size(path, claimed, max_bytes)
        targets = _targets(path.name, members, into, names)
        return _write(path, archive, targets, into, max_bytes)


def check_size(
    path: Path, size: int, max_bytes: int, *, remedy: str = "Unpack it yourself and give the folder"
) -> None:
    """Refuse an archive that unpacks to `size` bytes, or to more, if that is too much.

    Raises:
        DataError: If it is; `remedy` says what to do.
    """
    packed = path.stat().st_size
    if size > max_bytes:
        raise DataError(
            f"{path.name} must unpack to at most {max_bytes:,} bytes. Received: {size:,} or more. "
            f"{remedy}, or set `max_bytes` in its block."
        )
    if size > max(SMALL, MAX_RATIO * packed):
        raise DataError(
            f"{path.name} must unpack to at most {MAX_RATIO} times its size ({packed:,} bytes). "
            f"Received: {size:,} bytes or more. {remedy} if they are right."
        )


def _names(name: str, members: list[zipfile.ZipInfo], encoding: str | None) -> list[str]:
    """Return the names of members as their author wrote them, NFC.

    `zipfile` decodes names that are not declared to be UTF-8 as the DOS of 1981 did. Bytes that are
    valid UTF-8 and not ASCII are UTF-8: text of another encoding is hardly ever valid.
    """
    # The name in the archive, before zipfile silently makes it harmless.
    plain = [member.orig_filename for member in members]
    raw = {
        place: plain[place].encode("cp437")
        for place, member in enumerate(members)
        if not member.flag_bits & UTF_8 and not plain[place].isascii()
    }
    for tried in (encoding, "utf-8"):
        if tried and (decoded := _decoded(raw, tried)) is not None:
            plain = [decoded.get(place, text) for place, text in enumerate(plain)]
            return [unicodedata.normalize("NFC", text) for text in plain]
    first = next(iter(raw))
    likely = [
        f"{candidate} ({language}): {decoded[first][:60]!r}"
        for candidate, language in ENCODINGS.items()
        if (decoded := _decoded(raw, candidate)) is not None
    ]
    raise DataError(
        f"Names in {name} must be UTF-8, or their encoding known. Received: {raw[first][:60]!r}. "
        f"It may be {'; or '.join(likely) or 'any encoding'}. Choose with `data add --names "
        "ENCODING` (`names:` in its block), or pack the folder again with a program that writes "
        "UTF-8."
    )


def _decoded(raw: dict[int, bytes], encoding: str) -> dict[int, str] | None:
    """Return names decoded, by place; None if one of them is not of the encoding."""
    try:
        return {place: text.decode(encoding) for place, text in raw.items()}
    except UnicodeDecodeError:
        return None


def _targets(
    name: str, members: list[zipfile.ZipInfo], into: Path, encoding: str | None
) -> list[tuple[zipfile.ZipInfo, Path]]:
    """Return where each member goes, refusing the archive if one of them must not be unpacked."""
    seen: dict[str, bool] = {}
    targets = []
    for member, text in zip(members, _names(name, members, encoding), strict=True):
        pieces = text.removesuffix("/").split("/")
        if (
            not pieces
            or any(piece in ("", ".", "..") for piece in pieces)
            or re.search(r"[\\\x00-\x1f\x7f]", text)
            or re.match(r"[A-Za-z]:", text)
        ):
            raise DataError(
                f"Members of {name} must have relative paths with '/', without '.', '..' and "
                f"drives. Received: {text!r}"
            )
        file_type = stat.S_IFMT(member.external_attr >> 16)
        if file_type not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise DataError(
                f"Members of {name} must be files and folders. Received: {text!r}, "
                f"{'a link' if file_type == stat.S_IFLNK else 'a special file'}"
            )
        if member.flag_bits & ENCRYPTED:
            raise DataError(f"Members of {name} must not be encrypted. Received: {text!r}")
        # Names that differ only in letter case are the same file on many machines.
        key = "/".join(pieces).casefold()
        folder = text.endswith("/")
        if key in seen and not (folder and seen[key]):
            raise DataError(
                f"Members of {name} must have different names. Received twice: {text!r}"
            )
        seen[key] = folder
        if pieces[0] != LITTER:
            targets.append((member, into.joinpath(*pieces)))
    return targets


def _write(
    path: Path,
    archive: zipfile.ZipFile,
    targets: list[tuple[zipfile.ZipInfo, Path]],
    into: Path,
    max_bytes: int,
) -> list[Path]:
    into.mkdir(parents=True, exist_ok=True)
    files, size = [], 0
    for member, target in targets:
        try:
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            # Only new files: an existing link must not be followed.
            out = target.open("xb")
        except (FileExistsError, NotADirectoryError):
            raise DataError(
                f"Members of {path.name} must not replace each other or files in "
                f"{into}. Received: {target.relative_to(into).as_posix()!r}"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
                raise
            raise DataError(
                f"Members of {path.name} must have names that this machine can store "
                f"({error.strerror}). Received: {target.name[:80]!r}"
            ) from None
        with out, archive.open(member) as stream:
            while chunk := stream.read(CHUNK):
                size += len(chunk)
                check_size(path, size, max_bytes)  # A bomb that claimed less ends here.
                out.write(chunk)
        files.append(target)
    return files
