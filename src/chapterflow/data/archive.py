"""Unpack a zip archive from anywhere: nothing lands outside its folder, and size is capped."""

import re
import stat
import zipfile
import zlib
from pathlib import Path

from chapterflow.errors import DataError

#: Bytes that are decompressed at a time.
CHUNK = 1 << 20
#: Flag bit of an encrypted member.
ENCRYPTED = 0x1


def extract_zip(path: Path, into: Path, *, max_bytes: int, max_members: int) -> list[Path]:
    """Unpack a zip archive, member by member, without holding one in memory.

    All names are checked before the first byte is written. The sizes that the archive declares are
    not trusted: the decompressed bytes are counted as they come.

    Args:
        into: Folder of the unpacked files; created if missing.
        max_bytes: Largest sum of the decompressed sizes.
        max_members: Largest number of members, folders among them.

    Returns:
        The unpacked files, in the archive's order; folders are created but not listed.

    Raises:
        DataError: If the file is no intact zip archive, holds more than allowed, an encrypted
            member, a link or another special file, two members of one name, or a name that is
            absolute, leads out of the folder (`..`) or is not portable (a drive, a backslash).
        OSError: If the files cannot be written.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > max_members:
                raise DataError(
                    f"{path.name} must hold at most {max_members:,} members. "
                    f"Received: {len(members):,}"
                )
            targets = _targets(path.name, members, into)
            return _write(path.name, archive, targets, into, max_bytes)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path.name} must be an intact zip archive. Received: {error}") from None
    # What zipfile raises for an unknown compression, a password, a name in no known encoding.
    except (NotImplementedError, RuntimeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path.name} must be a zip archive that Python can read. Received: {error}. "
            "Pack it again with deflate."
        ) from None


def _targets(
    name: str, members: list[zipfile.ZipInfo], into: Path
) -> list[tuple[zipfile.ZipInfo, Path]]:
    """Return where each member goes, refusing the archive if one of them must not be unpacked."""
    seen: set[str] = set()
    targets = []
    for member in members:
        # The name in the archive, before zipfile silently makes it harmless.
        original = member.orig_filename
        pieces = original.removesuffix("/").split("/")
        if (
            not pieces
            or any(piece in ("", ".", "..") for piece in pieces)
            or re.search(r"[\\\x00-\x1f\x7f]", original)
            or re.match(r"[A-Za-z]:", original)
        ):
            raise DataError(
                f"Members of {name} must have relative paths with '/', without '.', '..' and "
                f"drives. Received: {original!r}"
            )
        file_type = stat.S_IFMT(member.external_attr >> 16)
        if file_type not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise DataError(
                f"Members of {name} must be files and folders. Received: {original!r}, "
                f"{'a link' if file_type == stat.S_IFLNK else 'a special file'}"
            )
        if member.flag_bits & ENCRYPTED:
            raise DataError(f"Members of {name} must not be encrypted. Received: {original!r}")
        # Names that differ only in letter case are the same file on many machines.
        key = "/".join(pieces).casefold()
        if key in seen:
            raise DataError(
                f"Members of {name} must have different names. Received twice: {original!r}"
            )
        seen.add(key)
        targets.append((member, into.joinpath(*pieces)))
    return targets


def _write(
    name: str,
    archive: zipfile.ZipFile,
    targets: list[tuple[zipfile.ZipInfo, Path]],
    into: Path,
    max_bytes: int,
) -> list[Path]:
    into.mkdir(parents=True, exist_ok=True)
    files, size = [], 0
    for member, target in targets:
        if member.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            # Only new files: an existing link must not be followed.
            out = target.open("xb")
        except (FileExistsError, NotADirectoryError):
            raise DataError(
                f"Members of {name} must not replace each other or files in "
                f"{into}. Received: {member.filename!r}"
            ) from None
        with archive.open(member) as stream, out:
            while chunk := stream.read(CHUNK):
                size += len(chunk)
                if size > max_bytes:  # A decompression bomb ends here.
                    raise DataError(
                        f"{name} must unpack to at most {max_bytes:,} bytes. Received: more"
                    )
                out.write(chunk)
        files.append(target)
    return files
