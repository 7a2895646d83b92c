"""Templates filled by Jinja2: what is not `markupsafe.Markup` is text, and is escaped."""

from __future__ import annotations

import base64
import functools
import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from compressor.report.format import Cell, quantity, significant
from compressor.report.tables import with_downloads

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, **values: object) -> Markup:
    """Fill a template of this package; a name that it uses and `values` lacks is an error."""
    return Markup(_environment().get_template(template).render(values).strip())


def render_page(template: str, **values: object) -> str:
    """Fill the template of a whole page, whose tables can be downloaded, and which runs the script of this package."""
    script = files("compressor.report").joinpath("templates", "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = render(template, script=Markup(script), script_hash=Markup(f"sha256-{digest}"), **values)
    return with_downloads(f"{page}\n")


def part(name: str, *values: Any) -> Markup:
    """Call a macro of parts.html.j2."""
    macros: Any = _environment().get_template("parts.html.j2").module
    return Markup(getattr(macros, name)(*values))


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # only pages need it

    loader = PackageLoader("compressor.report")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.tests["cell"] = lambda value: isinstance(value, Cell)
    made.filters |= {"quantity": quantity, "significant": significant}
    return made
