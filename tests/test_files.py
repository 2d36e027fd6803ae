"""What is published appears whole, and an error leaves what was there."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from chapterflow.errors import DataError
from chapterflow.files import (
    is_intact,
    open_regular,
    publish,
    remove_sealed,
    seal,
    sha256_file,
    staged,
)
from chapterflow.predict.inputs import open_array


def write(path: Path, text: str, *, folder: bool) -> None:
    if folder:
        path.mkdir()
        path = path / "file"
    path.write_text(text)


def read(path: Path) -> str:
    return (path / "file" if path.is_dir() else path).read_text()


@pytest.mark.parametrize("folder", [False, True])
def test_what_is_there_is_replaced(tmp_path: Path, folder: bool) -> None:
    for text in ("first", "second"):
        with staged(tmp_path / "out") as new:
            write(new, text, folder=folder)
        assert read(tmp_path / "out") == text
        assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("folder", [False, True])
def test_after_an_error_nothing_remains(tmp_path: Path, folder: bool) -> None:
    write(tmp_path / "out", "first", folder=folder)

    def fail() -> None:
        with staged(tmp_path / "out") as new:
            write(new, "half", folder=folder)
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        fail()
    assert read(tmp_path / "out") == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_another_process_puts_there_in_between_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, out, rename, renamed = tmp_path / "new", tmp_path / "out", Path.rename, []
    write(new, "mine", folder=True)

    def slow_rename(self: Path, target: Path) -> Path:
        if self == new and not renamed:
            renamed.append(self)
            write(out, "theirs", folder=True)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", slow_rename)
    publish(new, out)
    assert read(out) == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_folders_that_several_publish_at_once_are_whole(tmp_path: Path) -> None:
    errors: list[Exception] = []

    def work(number: int) -> None:
        try:
            for turn in range(5):
                new = tmp_path / f"{number}-{turn}"
                write(new, f"{number}", folder=True)
                publish(new, tmp_path / "out")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert read(tmp_path / "out") in {"0", "1", "2", "3"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"1")
    (tmp_path / "link").symlink_to(path)
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"1"
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name, received in (
        ("pipe.npy", r"a named pipe \(FIFO\)"),
        ("device", "a character device"),
        ("", "Is a directory"),
    ):
        with pytest.raises((DataError, IsADirectoryError), match=received):
            open_regular(tmp_path / name)
    # Nobody writes to the pipe, so reading it would not end.
    for read_file in (sha256_file, lambda path: open_array(path, (3,))):
        with pytest.raises(DataError, match=r"pipe\.npy must be a regular file"):
            read_file(tmp_path / "pipe.npy")


@pytest.mark.fault("Cached SavedModel or backbone with a file changed, lost or added", "Made again")
@pytest.mark.parametrize("damage", ["changed", "lost", "added", "seal lost", "seal garbage"])
def test_a_sealed_folder_is_intact_only_as_it_was(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "model"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "data").write_bytes(b"weights")
    assert not is_intact(folder)
    seal(folder)
    assert is_intact(folder)
    if damage == "changed":
        (folder / "variables" / "data").write_bytes(b"weighty")
    elif damage == "lost":
        (folder / "saved_model.pb").unlink()
    elif damage == "added":
        (folder / "more").touch()
    elif damage == "seal lost":
        (tmp_path / "model.sha256").unlink()
    else:
        (tmp_path / "model.sha256").write_bytes(b"\xff\x00")
    assert not is_intact(folder)
    remove_sealed(folder)
    assert not list(tmp_path.iterdir())
