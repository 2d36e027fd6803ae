"""Pictures keep the colours of photos, and show names in every script."""

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chapterflow import fonts
from chapterflow.evaluation.figures import confusion_matrix
from chapterflow.explain.canvas import Canvas
from chapterflow.explain.pictures import wrapped


@pytest.fixture
def fresh_fonts() -> Iterator[None]:
    """Forget which font has which letter, before and after."""
    caches = (fonts._file_with, fonts._say_missing)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_fonts: None) -> Path:
    """Install one font: \uac00 is a black square, \u72ac its lower half."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    def block(top: int) -> Any:
        pen = TTGlyphPen(None)
        pen.moveTo((0, 0))
        for corner in ((0, top), (1000, top), (1000, 0)):
            pen.lineTo(corner)
        pen.closePath()
        return pen.glyph()

    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "whole", "half"])
    builder.setupCharacterMap({0xAC00: "whole", 0x72AC: "half"})
    builder.setupGlyf({".notdef": block(10), "whole": block(1000), "half": block(500)})
    builder.setupHorizontalMetrics(dict.fromkeys((".notdef", "whole", "half"), (1000, 0)))
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": "Blocks", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    file = tmp_path / "blocks.ttf"
    builder.save(file)
    monkeypatch.setattr(fonts, "_installed", lambda: [file])
    return file


def written(text: str, path: Path) -> np.ndarray[Any, Any]:
    """Return how dark each pixel of a picture of a text is, from 0 to 255."""
    canvas = Canvas(160, 60)
    canvas.text(20, 20, text, size=14.4)  # 20 pixels
    canvas.save(path)
    return 255 - np.asarray(Image.open(path).convert("L"))


def test_a_photo_keeps_its_colours(tmp_path: Path) -> None:
    # More colours than a palette has, and a few pixels of a pink of their own.
    photo = np.random.default_rng(3).integers(0, 256, (300, 400, 3)).astype(np.uint8)
    photo[100:110, 100:110] = (236, 64, 122)
    canvas = Canvas(440, 340)
    canvas.tile((20, 20, 400, 300), photo)
    canvas.save(tmp_path / "photo.png")
    with Image.open(tmp_path / "photo.png") as opened:
        assert opened.mode == "RGB"
        assert np.array_equal(np.asarray(opened)[20:320, 20:420], photo)


@pytest.mark.usefixtures("blocks")
def test_a_letter_comes_from_a_font_that_has_it(tmp_path: Path) -> None:
    whole, half = (written(letter, tmp_path / "a.png") for letter in "\uac00\u72ac")
    assert (whole > 250).sum() == pytest.approx(20 * 20, abs=45)
    assert (half > 250).sum() == pytest.approx(20 * 10, abs=35)
    # The letters around it keep theirs, on the same line.
    mixed = written("A\uac00", tmp_path / "b.png")
    alone = written("A", tmp_path / "c.png")
    columns = np.flatnonzero(alone.any(axis=0))
    assert np.array_equal(mixed[:, : columns.max()], alone[:, : columns.max()])
    rows = np.flatnonzero((mixed[:, columns.max() + 2 :] > 250).any(axis=1))
    assert rows.max() == pytest.approx(np.flatnonzero(alone.any(axis=1)).max(), abs=1)


@pytest.mark.usefixtures("blocks")
def test_decomposed_hangul_is_one_letter(tmp_path: Path) -> None:
    composed, decomposed = (
        written(text, tmp_path / "a.png") for text in ("\uac00", "\u1100\u1161")
    )
    assert np.array_equal(composed, decomposed)
    assert wrapped("\u1100\u1161" * 8, 8).split("\n")[0] == "\uac00" * 4


@pytest.mark.usefixtures("blocks")
def test_figures_of_a_run_have_the_letters_too(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib's on missing letters
        path = tmp_path / "confusion.png"
        confusion_matrix(np.eye(2, dtype=int), ["\uac00", "\u72ac"], "digits", path)
    assert fonts.families(["cat", "\uac00"]) == ["DejaVu Sans", "Blocks"]
    assert fonts.families(["cat", "\u00e9"]) == ["DejaVu Sans"]


def test_without_a_font_a_message_names_a_package_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fresh_fonts: None
) -> None:
    monkeypatch.setattr(fonts, "_installed", list)
    with caplog.at_level(logging.WARNING):
        parts = fonts.segments("\uac00\ub098")
    assert [text for text, _ in parts] == ["\uac00\ub098"]
    (record,) = caplog.records
    assert "Received: Hangul letters" in record.getMessage()
    assert "fonts-noto-cjk" in record.getMessage()
