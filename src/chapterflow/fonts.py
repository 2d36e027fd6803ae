"""Fonts of pictures: matplotlib's own, and an installed one for the letters that it lacks.

No font is shipped: names of classes may be in any script, and one font with Hangul, Chinese and
Japanese has 16 MB. Desktops have one; where none is installed, a message names a package.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.ft2font import FT2Font

_log = logging.getLogger(__name__)
#: Parts of file names that make a font less suited for a label.
UNSUITED = ("serif", "myeongjo", "batang", "mincho", "song", "mono", "bold", "black", "light",
            "thin", "medium", "italic", "oblique")  # fmt: skip


def segments(text: str, *, bold: bool = False) -> list[tuple[str, Path]]:
    """Return the parts of a line of text, each with the file of a font that has its letters."""
    plain = _plain(bold)
    if text.isascii():
        return [(text, plain)]
    files = ((character, _file_with(character, plain)) for character in text)
    return [
        ("".join(character for character, _ in part), file)
        for file, part in groupby(files, key=lambda pair: pair[1])
    ]


def families(texts: Iterable[str]) -> list[str]:
    """Return a value of matplotlib's `font.family` with which it draws all letters of texts."""
    from matplotlib.font_manager import fontManager, ttfFontProperty

    plain = _plain(bold=False)
    names = ["DejaVu Sans"]
    for character in sorted(set("".join(texts))):
        file = _file_with(character, plain)
        if file == plain:
            continue
        name = ttfFontProperty(_opened(file)).name
        if name not in names:
            names.append(name)
            # matplotlib's own list may be older than the font.
            fontManager.addfont(str(file))
    return names


def _plain(bold: bool) -> Path:
    import matplotlib as mpl

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return Path(mpl.get_data_path()) / "fonts" / "ttf" / name


@functools.cache
def _file_with(character: str, plain: Path) -> Path:
    """Return the file of a font that has a letter: the plain one if it does, or none does."""
    if not character.isprintable() or _has(plain, character):
        return plain
    for file in _installed():
        if _has(file, character):
            return file
    _say_missing(_script(character))
    return plain


@functools.cache
def _script(character: str) -> str:
    """Return the first word of a letter's name: `HANGUL`, `CJK`, `HIRAGANA`."""
    import unicodedata

    return unicodedata.name(character, "UNKNOWN").partition(" ")[0].partition("-")[0]


@functools.cache
def _say_missing(script: str) -> None:
    _log.warning(
        "Pictures show boxes for some letters: no installed font has them. Received: %s letters. "
        "Install a font that does, for Korean, Chinese and Japanese `apt-get install "
        "fonts-noto-cjk`, and run the command again.",
        script.capitalize() if script != "CJK" else script,
    )


@functools.cache
def _installed() -> list[Path]:
    """Return the files of the machine's fonts, those suited for labels first."""
    from matplotlib.font_manager import findSystemFonts

    def unsuited(file: Path) -> tuple[int, str]:
        name = file.name.casefold()
        return sum(part in name for part in UNSUITED), name

    return sorted(map(Path, findSystemFonts()), key=unsuited)


@functools.cache
def _opened(file: Path) -> FT2Font:
    from matplotlib.ft2font import FT2Font

    return FT2Font(str(file))


def _has(file: Path, character: str) -> bool:
    try:
        font: Any = _opened(file)
    except (OSError, RuntimeError):  # Fonts of bitmaps cannot be opened.
        return False
    return bool(font.get_char_index(ord(character)))
