"""Results as values: text in a terminal, HTML in a notebook, both from one function that prints."""

from __future__ import annotations

import html
import io
import shutil
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

#: In a narrower terminal, a `repr` is as wide as piped output is: it may be printed elsewhere.
WIDTH = 124
#: Words of a style that become classes in HTML.
STYLES = ("bold", "dim", "green", "cyan", "yellow", "red")
#: Colours with a contrast of 4.5 on the page of a light and of a dark notebook.
STYLE = """<style>
.chapterflow { font-size: 0.95em; line-height: 1.45; max-width: 100%; overflow-x: auto; }
.chapterflow p { margin: 0.4em 0; white-space: pre-wrap; }
.chapterflow table { border-collapse: collapse; margin: 0.5em 0 0.9em; }
.chapterflow caption { text-align: left; font-weight: 600; padding: 0.2em 0; color: inherit; }
.chapterflow th, .chapterflow td {
  text-align: left; vertical-align: top; padding: 0.2em 0.75em 0.2em 0; white-space: pre-wrap;
  max-width: 40em;
}
.chapterflow thead th { border-bottom: 1px solid currentColor; }
.chapterflow tfoot td { border-top: 1px solid currentColor; font-weight: 600; }
.chapterflow .number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.chapterflow figure { margin: 0.9em 0; }
.chapterflow figcaption { margin-bottom: 0.3em; }
.chapterflow img { max-width: 100%; height: auto; background: #fff; }
.chapterflow .bold { font-weight: 600; } .chapterflow .dim { opacity: 0.75; }
.chapterflow .green { color: #17663a; } .chapterflow .cyan { color: #0b6070; }
.chapterflow .yellow { color: #7a5500; } .chapterflow .red { color: #a3231d; }
[data-jp-theme-light=false] .chapterflow .green, .vscode-dark .chapterflow .green { color: #7fd6a2; }
[data-jp-theme-light=false] .chapterflow .cyan, .vscode-dark .chapterflow .cyan { color: #7cd3e3; }
[data-jp-theme-light=false] .chapterflow .yellow, .vscode-dark .chapterflow .yellow { color: #e8c268; }
[data-jp-theme-light=false] .chapterflow .red, .vscode-dark .chapterflow .red { color: #ff9d94; }
</style>"""  # noqa: E501


class Displayed(ABC):
    """A result of a call: `print` shows it as the command line does, a notebook as HTML."""

    @abstractmethod
    def _print(self, console: Console) -> None:
        """Print the result as the command does."""

    def _pictures(self) -> Iterable[tuple[str, bytes]]:
        """Return captions and PNGs that a notebook shows below the text."""
        return ()

    def __repr__(self) -> str:
        """Return what the command prints, without colours."""
        width = max(shutil.get_terminal_size().columns, WIDTH)
        file = io.StringIO()
        self._print(Console(file=file, width=width, force_jupyter=False, color_system=None))
        return "\n".join(line.rstrip() for line in file.getvalue().splitlines())

    def _repr_html_(self) -> str:
        """Return the same as HTML, with the pictures."""
        page = Html()
        self._print(page)
        for caption, png in self._pictures():
            page.picture(caption, png)
        return page.text()


class Html(Console):
    """A console whose output is HTML: tables become tables, other lines paragraphs."""

    def __init__(self) -> None:
        super().__init__(file=io.StringIO(), width=10 * WIDTH, force_jupyter=False)
        self._blocks: list[str] = []

    def print(self, *objects: Any, **options: Any) -> None:
        """Add tables, and texts as paragraphs; layout options of a terminal are ignored."""
        style = options.get("style") or ""
        for value in objects:
            if isinstance(value, Table):
                self._blocks.append(self._table(value))
            else:
                self._blocks.append(f"<p{_class(style)}>{self._inline(value)}</p>")

    def picture(self, caption: str, png: bytes) -> None:
        """Add a picture below its caption."""
        text = html.escape(caption)
        source = f"data:image/png;base64,{b64encode(png).decode()}"
        image = f'<img alt="{text}" src="{source}">'
        self._blocks.append(f"<figure><figcaption>{text}</figcaption>{image}</figure>")

    def text(self) -> str:
        """Return the HTML."""
        return f'{STYLE}\n<div class="chapterflow">\n' + "\n".join(self._blocks) + "\n</div>"

    def _inline(self, value: Any) -> str:
        """Return a text with its styles, or markup as the console reads it."""
        text = value if isinstance(value, Text) else self.render_str(str(value), highlight=False)
        # A text with spans repeats its own style in each of them; one without spans leaves it out.
        plain = "" if text.spans else str(text.style)
        parts = []
        for segment in text.render(self):
            content = html.escape(segment.text)
            marks = _class(str(segment.style or plain))
            parts.append(f"<span{marks}>{content}</span>" if marks else content)
        return "".join(parts).rstrip("\n")

    def _table(self, table: Table) -> str:
        numbers = [' class="number"' if c.justify == "right" else "" for c in table.columns]

        def row(tag: str, cells: Iterable[Any], scope: str = "") -> str:
            inside = "".join(
                f"<{tag}{scope}{number}>{self._inline(cell)}</{tag}>"
                for number, cell in zip(numbers, cells, strict=True)
            )
            return f"<tr>{inside}</tr>"

        parts = ["<table>"]
        if table.title:
            parts.append(f"<caption>{self._inline(table.title)}</caption>")
        if table.show_header:
            head = row("th", (column.header for column in table.columns), ' scope="col"')
            parts.append(f"<thead>{head}</thead>")
        body = zip(*(column.cells for column in table.columns), strict=True)
        parts.append(f"<tbody>{''.join(row('td', cells) for cells in body)}</tbody>")
        if table.show_footer:
            foot = row("td", (column.footer for column in table.columns))
            parts.append(f"<tfoot>{foot}</tfoot>")
        parts.append("</table>")
        if table.caption:
            parts.append(f'<p class="dim">{self._inline(table.caption)}</p>')
        return "".join(parts)


def _class(style: str) -> str:
    """Return the attribute with the classes of a style of rich."""
    names = [name for name in style.split() if name in STYLES]
    return f' class="{" ".join(names)}"' if names else ""


def read_pictures(pictures: Iterable[tuple[str, Path]]) -> list[tuple[str, bytes]]:
    """Return captions with the content of the files of pictures."""
    return [(caption, path.read_bytes()) for caption, path in pictures]
