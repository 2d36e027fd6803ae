"""Kinds, sources and models are found by file name and by entry point."""

from pathlib import Path

import pytest

from chapterflow import plugins
from chapterflow.data.source import get_source, source_names
from chapterflow.errors import ConfigError, DataError
from chapterflow.kinds.dataset import get_kind, kind_names


def entry_points(monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    """Pretend that a package with these entry points is installed."""
    monkeypatch.setattr(plugins, "_entry_points", lambda group: list(points.items()))


def test_the_files_are_the_kinds_and_the_sources() -> None:
    kinds = {"citations", "curves", "graphs", "images", "photos", "volumes"}
    assert kinds <= set(kind_names())
    assert kind_names() == sorted(kind_names())
    assert "random-graphs" in source_names()
    assert get_kind("curves").task.metric == "test/rmse"
    assert get_source("karate").kind is get_kind("citations")


def test_an_entry_point_adds_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    entry_points(monkeypatch, signals="weather.signals")
    assert "signals" in kind_names()


def test_two_files_of_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    entry_points(monkeypatch, images="weather.images")
    with pytest.raises(ConfigError, match=r"Two files are called 'images'.*weather\.images"):
        kind_names()


def test_a_file_of_another_package_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    entry_points(monkeypatch, spectra="no_such_package_here.spectra")
    with pytest.raises(ConfigError, match=r"spectra.*cannot be imported.*ModuleNotFoundError"):
        get_kind("spectra")


def test_a_file_that_registers_something_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "odd_kind.py").write_text("KIND = 5\n")
    monkeypatch.syspath_prepend(tmp_path)
    entry_points(monkeypatch, odd="odd_kind")
    with pytest.raises(ConfigError, match=r"must end with KIND = Kind\('odd', .*Received: 5"):
        get_kind("odd")


def test_an_unknown_kind_is_named_with_the_nearest() -> None:
    with pytest.raises(DataError, match=r"Received: 'imagess'.*'images'"):
        get_kind("imagess")
