"""A zip archive is unpacked below its folder, or not at all."""

import stat
import struct
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import pytest

from chapterflow.data.archive import extract_zip
from chapterflow.errors import DataError


def packed(tmp_path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def unpacked(
    path: Path, into: Path, *, max_bytes: int = 1 << 20, max_members: int = 10, **more: Any
) -> list[Path]:
    return extract_zip(path, into, max_bytes=max_bytes, max_members=max_members, **more)


def test_files_come_out_in_order_with_their_folders(tmp_path: Path) -> None:
    path = packed(tmp_path, ("set/", b""), ("set/b/two.txt", b"2"), ("set/one.txt", b"1"))
    into = tmp_path / "out"
    files = unpacked(path, into)
    assert files == [into / "set/b/two.txt", into / "set/one.txt"]
    assert [file.read_bytes() for file in files] == [b"2", b"1"]


@pytest.mark.parametrize(
    "name",
    [
        "../out.txt",
        "/etc/out.txt",
        "a/../../out.txt",
        "C:/out.txt",
        "c:out",
        "a\\b.txt",
        "./a",
        "a//b",
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    info = zipfile.ZipInfo("x")
    info.filename = info.orig_filename = name
    path = packed(tmp_path, ("first.txt", b"1"), (info, b"2"))
    with pytest.raises(DataError, match="must have relative paths"):
        unpacked(path, tmp_path / "in" / "out")
    assert [p.name for p in tmp_path.rglob("*")] == ["set.zip"], "something was written"


@pytest.mark.parametrize(("kind", "word"), [(stat.S_IFLNK, "a link"), (stat.S_IFIFO, "special")])
def test_links_and_special_files_are_refused(kind: int, word: str, tmp_path: Path) -> None:
    info = zipfile.ZipInfo("pointer")
    info.create_system = 3
    info.external_attr = (kind | 0o777) << 16
    with pytest.raises(DataError, match=word):
        unpacked(packed(tmp_path, (info, b"/etc/passwd")), tmp_path / "out")


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path, ("secret.txt", b"1"))
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        struct.pack_into("<H", content, content.index(signature) + offset, 1)
    path.write_bytes(content)
    with pytest.raises(DataError, match="must not be encrypted"):
        unpacked(path, tmp_path / "out")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", ["a.txt", "A.TXT"])
def test_two_members_of_one_name_are_refused(second: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="different names"):
        unpacked(packed(tmp_path, ("a.txt", b"1"), (second, b"2")), tmp_path / "out")


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must not replace each other"):
        unpacked(packed(tmp_path, ("a", b"1"), ("a/b", b"2")), tmp_path / "out")


def test_nothing_is_written_through_a_link_that_lies_there(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.txt").symlink_to(tmp_path / "elsewhere.txt")
    with pytest.raises(DataError, match="must not replace each other or files in"):
        unpacked(packed(tmp_path, ("a.txt", b"1")), tmp_path / "out")
    assert not (tmp_path / "elsewhere.txt").exists()


def test_a_bomb_ends_at_the_cap(tmp_path: Path) -> None:
    path = packed(tmp_path, ("a", b"0" * 600_000), ("b", b"0" * 600_000))
    assert path.stat().st_size < 5_000
    with pytest.raises(DataError, match="at most 1,048,576 bytes"):
        unpacked(path, tmp_path / "out")
    assert len(unpacked(path, tmp_path / "fits", max_bytes=1_200_000)) == 2


def claiming(tmp_path: Path, size: int) -> Path:
    """Write an archive of a kilobyte whose directory claims a decompressed size."""
    path = packed(tmp_path, ("a", bytes(1 << 20)))
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\x01\x02") + 24, size)
    path.write_bytes(content)
    return path


@pytest.mark.fault("Zip of zeros: gigabytes from a kilobyte", "Refused before a byte is written")
def test_a_bomb_is_refused_by_its_ratio_and_its_size(tmp_path: Path, record_property: Any) -> None:
    with pytest.raises(DataError, match="at most 100 times its size"):
        extract_zip(claiming(tmp_path, 3 << 30), tmp_path / "out")
    with pytest.raises(DataError, match=r"at most 1,000,000,000 bytes.*or set `max_bytes`"):
        extract_zip(claiming(tmp_path, 3 << 30), tmp_path / "out", max_bytes=10**9)
    assert not (tmp_path / "out").exists()
    record_property("saw", "DataError, nothing written")


@pytest.mark.fault("Zip with 300,000 members", "Refused before its directory is read")
def test_too_many_members_are_refused(tmp_path: Path, record_property: Any) -> None:
    path = packed(tmp_path, *((f"{number}.txt", b"") for number in range(11)))
    with pytest.raises(DataError, match=r"at most 10 members\. Received: 11.*`max_members`"):
        unpacked(path, tmp_path / "out")
    # What the directory says of its own length counts, because `zipfile` reads so much of it.
    content = bytearray(path.read_bytes())
    end = content.index(b"PK\x05\x06")
    struct.pack_into("<HH", content, end + 8, 1, 1)
    path.write_bytes(content[:end] + bytes(10_000) + content[end:])
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\x05\x06") + 12, 10_000)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"at most 10 members\. Received: 19"):
        unpacked(path, tmp_path / "out")
    record_property("saw", "refused, exit 2")


def unflagged(tmp_path: Path, *names: bytes) -> Path:
    """Write an archive as old programs do: names in bytes, and no word of their encoding."""
    path = packed(tmp_path, *((f"{place:0{len(n)}}", b"x") for place, n in enumerate(names)))
    content = path.read_bytes()
    for place, name in enumerate(names):
        content = content.replace(f"{place:0{len(name)}}".encode(), name)
    path.write_bytes(content)
    return path


def test_names_in_utf_8_without_the_flag_are_read_as_utf_8(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "고양이")
    path = unflagged(
        tmp_path, f"{decomposed}/1.png".encode(), "__MACOSX/고양이/._1.png".encode(), b"a.png"
    )
    files = unpacked(path, tmp_path / "out")
    assert [file.relative_to(tmp_path / "out").as_posix() for file in files] == [
        "고양이/1.png",
        "a.png",
    ]


def test_names_in_another_encoding_are_refused_with_the_way_on(tmp_path: Path) -> None:
    path = unflagged(tmp_path, "고양이/1.png".encode("cp949"), b"a.png")
    with pytest.raises(
        DataError,
        match=r"Names in set.zip must be UTF-8.*cp949 \(Korean\): '고양이/1.png'.*--names",
    ):
        unpacked(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    files = unpacked(path, tmp_path / "out", names="cp949")
    assert files[0] == tmp_path / "out" / "고양이" / "1.png"


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path, ("a.txt", bytes(range(256)) * 50))
    content = bytearray(path.read_bytes())
    content[60] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"set.zip must be"):
        unpacked(path, tmp_path / "out")
    path.write_bytes(content[:100])
    with pytest.raises(DataError, match="intact zip archive"):
        unpacked(path, tmp_path / "other")
