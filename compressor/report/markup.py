"""HTML that is escaped unless it says otherwise: the only way this package makes a tag."""

from __future__ import annotations

import html
from collections.abc import Sequence

_VOID = frozenset({"br", "meta"})


class Markup(str):
    """Text that is HTML already; any other string is escaped when it meets one."""

    __slots__ = ()


def element(tag: str, *children: object, **attributes: str) -> Markup:
    """Make one element.

    Args:
        tag: its name
        children: `Markup` is taken as it is, anything else as text
        attributes: their values; an underscore at the end of a name (`class_`) is dropped, others become hyphens
    """
    named = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(value)}"' for name, value in attributes.items()
    )
    return Markup(f"<{tag}{named}>" if tag in _VOID else f"<{tag}{named}>{join(children)}</{tag}>")


def join(children: object) -> Markup:
    """Put a tuple or list of children one after the other, or escape a single one."""
    if isinstance(children, tuple | list):
        return Markup("".join(join(child) for child in children))
    return children if isinstance(children, Markup) else Markup(html.escape(str(children)))


def table(head: Sequence[object], rows: Sequence[Sequence[object]], class_: str = "") -> Markup:
    """Make a table whose first row and first column are headers.

    Args:
        head: cells of the first row
        rows: cells of the others; a cell that is a `td` element already is taken as it is
        class_: CSS class of the table
    """
    top = element("tr", *(element("th", cell, scope="col") for cell in head))
    body = [element("tr", element("th", row[0], scope="row"), *(_cell(cell) for cell in row[1:])) for row in rows]
    return element("table", element("thead", top), element("tbody", *body), class_=class_)


def _cell(cell: object) -> Markup:
    if isinstance(cell, Markup) and cell.startswith("<td"):
        return cell
    return element("td", cell)
