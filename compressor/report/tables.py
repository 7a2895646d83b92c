"""The tables of a page as files: comma-separated values for programs, Markdown for people.

They are read off the finished page, so they are all of its tables, those of plug-ins too. A page has the first kind in
itself, behind each table.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

from compressor.files import write_atomic

_LONGEST = 60  # characters of a file's name
_HEADINGS = ("h1", "h2", "h3", "summary")
_TABLE = re.compile(r"<table\b.*?</table>", re.DOTALL | re.IGNORECASE)
_WITHOUT = {"facts", "runs"}  # classes of tables that are short, or have another file beside
_SHORTEST = 3  # rows of a table that is worth a file
_PICTURE = "bar"  # class of cells that draw what others say


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: as the page shows it, smaller print behind a semicolon
        exact: the number in full that the page gives when the pointer rests on the cell; else the text
    """

    text: str
    exact: str


@dataclass
class Table:
    """A table of a page.

    Attributes:
        title: the heading above it
        rows: the first one holds the titles of the columns
        kind: its CSS classes
    """

    title: str
    rows: list[list[Cell]] = field(default_factory=list)
    kind: frozenset[str] = frozenset()

    @property
    def slug(self) -> str:
        """What its file is called, without ending."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")[:_LONGEST] or "table"

    def csv(self) -> str:
        """Comma-separated values, numbers in full."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([cell.exact for cell in row] for row in self.rows)
        return text.getvalue()

    def markdown(self) -> str:
        """A table as GitHub shows it, with the texts of the page."""
        width = max(len(row) for row in self.rows)
        lines = [[cell.text.replace("|", "\\|") for cell in row] + [""] * (width - len(row)) for row in self.rows]
        lines.insert(1, ["---"] * width)
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def tables_of(page: str) -> list[Table]:
    """The tables of an HTML page, in their order; those without rows are left out."""
    return [table for table in _all(page) if table.rows]


def with_downloads(page: str) -> str:
    """Put a link behind every table of an HTML page that gives it as comma-separated values."""
    found, places = _all(page), _TABLE.findall(page)
    if len(found) != len(places):  # nested or commented out by a plug-in: which is which would be a guess
        return page
    tables = iter(found)
    return _TABLE.sub(lambda table: table[0] + _link(next(tables)), page)


def _all(page: str) -> list[Table]:
    reader = _Reader()
    reader.feed(page)
    reader.close()
    return reader.tables


def _link(table: Table) -> str:
    if len(table.rows) < _SHORTEST or table.kind & _WITHOUT:
        return ""
    data = base64.b64encode(table.csv().encode()).decode()
    told = f'aria-label="{html.escape(table.title)} as comma-separated values"'
    return f'\n<p class="csv"><a href="data:text/csv;base64,{data}" download="{table.slug}.csv" {told}>CSV</a></p>'


def write_tables(page: str, folder: Path) -> list[Path]:
    """Write every table of a page to FOLDER/NN-TITLE.csv and .md.

    Returns:
        the files
    """
    written: list[Path] = []
    for number, table in enumerate(tables_of(page), 1):
        for ending, text in (("csv", table.csv()), ("md", table.markdown())):
            path = folder / f"{number:02}-{table.slug}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, text)
            written.append(path)
    return written


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: list[Table] = []
        self._title, self._heading = "", False
        self._row: list[Cell] | None = None
        self._text: list[str] | None = None
        self._exact: str | None = None
        self._span = 1
        self._title_cell = self._muted = False
        self._group, self._heads = "", False  # the title of a group of rows, and whether this cell is one

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        classes = frozenset((given.get("class") or "").split())
        if tag in _HEADINGS:
            self._title, self._heading = "", True
        elif tag == "table":
            self.tables.append(Table(" ".join(self._title.split()), kind=classes))
            self._group = ""
        elif tag == "tr" and self.tables:
            self._row = []
        elif tag in ("td", "th") and self._row is not None:
            self._text, self._exact = (None if _PICTURE in classes else []), given.get("title")
            span = given.get("colspan") or ""
            self._span = int(span) if span.isdecimal() else 1
            self._heads = given.get("scope") == "rowgroup"
            self._title_cell, self._muted = tag == "th", False
        elif tag == "small" and self._title_cell:
            self._muted = True  # an explanation
        elif tag == "small" and self._text:
            self._text.append("; ")

    def handle_data(self, data: str) -> None:
        if self._heading:
            self._title += data
        elif self._text is not None and not self._muted:
            self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in _HEADINGS:
            self._heading = False
        elif tag in ("td", "th") and self._row is not None and self._text is not None:
            text = " ".join("".join(self._text).split()).strip("; ")
            if self._heads:
                self._group, self._text = text, None
                return
            if self._group and not self._row:
                text = f"{self._group}: {text}"
            exact = self._exact if self._exact is not None and _is_number(self._exact) else text
            self._row += [Cell(text, exact), *[Cell("", "")] * (self._span - 1)]
            self._text = None
        elif tag == "tr" and self._row is not None:
            if self._row:
                self.tables[-1].rows.append(self._row)
            self._row = None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
