"""Tables of README and docs whose rows come from the files of numbers, so that what is measured again is what is read.

Such a table stands behind a line `<!-- table: NAME -->`. Its head is written by hand, its rows are those of
`TABLES[NAME]`: `python experiments/evidence.py page` writes them, a test compares.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import table_rows_pages  # noqa: F401 - registers its tables
import table_rows_readme  # noqa: F401
import table_rows_results  # noqa: F401
from evidence_table import ROOT
from table_cells import TABLES

from compressor.errors import RunError
from compressor.files import write_atomic


class TableError(Exception):
    """A table that cannot be made, in one sentence."""


_TABLE = re.compile(r"^(<!-- table: (\w+) -->\n\|.*\n\|[-|: ]+\n)(?:\|.*\n)*", re.MULTILINE)


def pages() -> Iterator[Path]:
    """What may have such tables."""
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").glob("*.md"))


def names(text: str) -> list[str]:
    """The tables of a page."""
    return [found[2] for found in _TABLE.finditer(text)]


def rewritten(text: str) -> str:
    """A page with the rows of its tables as they are now.

    Raises:
        TableError: a table has a name that there is none of, or numbers are not there
    """
    return _TABLE.sub(_table, text)


def _table(found: re.Match[str]) -> str:
    head, name = found[1], found[2]
    if name not in TABLES:
        raise TableError(f"<!-- table: {name} -->: there is no such table; valid: {', '.join(sorted(TABLES))}")
    try:
        rows = TABLES[name]()
    except (RunError, LookupError, TypeError, ValueError) as problem:  # half an experiment has half of its rows
        raise TableError(f"table {name}: its numbers are not whole ({type(problem).__name__}: {problem})") from problem
    return head + "".join(f"| {' | '.join(map(str, row))} |\n" for row in rows)


def write() -> None:
    """Write the rows of all tables on all pages.

    Raises:
        TableError: those of a page cannot be made; the pages before are written
    """
    for path in pages():
        text = path.read_text(encoding="utf-8")
        if (new := rewritten(text)) != text:
            write_atomic(path, new)
