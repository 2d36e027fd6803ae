"""A result prints the same in a terminal and in a notebook, there as HTML."""

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from chapterflow.display import Displayed, Html


class Fruit(Displayed):
    def _print(self, console: Console) -> None:
        table = Table(title="Fruit <b>", caption="[dim]per piece[/]", show_footer=True)
        table.add_column("name", "total")
        table.add_column("grams", "1,300", justify="right")
        table.add_row(Text("apple & pear", "bold red"), "100")
        table.add_row("[green]melon[/]", Text("1,200"))
        console.print(table)
        console.print(Text("[not markup] <i>"), soft_wrap=True)

    def _pictures(self) -> Iterable[tuple[str, bytes]]:
        return [('a "dot"', b"\x89PNG")]


def test_a_table_is_a_table() -> None:
    page = Fruit()._repr_html_()
    assert "<caption>Fruit &lt;b&gt;</caption>" in page
    assert '<th scope="col">name</th><th scope="col" class="number">grams</th>' in page
    assert '<td><span class="bold red">apple &amp; pear</span></td><td class="number">100' in page
    assert '<td><span class="green">melon</span></td>' in page
    assert '<tfoot><tr><td>total</td><td class="number">1,300</td></tr></tfoot>' in page
    assert '<p class="dim"><span class="dim">per piece</span></p>' in page


def test_texts_and_pictures_are_escaped() -> None:
    page = Fruit()._repr_html_()
    assert "<p>[not markup] &lt;i&gt;</p>" in page
    assert "<figcaption>a &quot;dot&quot;</figcaption>" in page
    assert 'alt="a &quot;dot&quot;" src="data:image/png;base64,iVBORw=="' in page


def test_the_text_has_neither_colours_nor_trailing_spaces() -> None:
    text = repr(Fruit())
    assert "apple & pear" in text
    assert "\x1b" not in text
    assert not [line for line in text.splitlines() if line != line.rstrip()]


def test_a_table_without_headings_has_none() -> None:
    grid = Table.grid()
    grid.add_row("cnn", "train")
    page = Html()
    page.print(grid)
    assert "<tbody><tr><td>cnn</td><td>train</td></tr></tbody>" in page.text()
    assert "<thead>" not in page.text()
