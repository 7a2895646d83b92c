"""Run records as evidence: one HTML page, a few lines for the terminal, two numbers to compare networks by.

    record (a dict, as in report.json) ──▶ values ──▶ page (HTML) ◀── figures (SVG)
                                              └─────▶ terminal (text)

Nothing here imports torch, and matplotlib is imported only when a figure is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.files import write_atomic, write_json
from compressor.report.page import render_html
from compressor.report.terminal import summary_lines
from compressor.report.values import efficiency

__all__ = ["efficiency", "render_html", "summary_lines", "write_report"]


def write_report(record: Mapping[str, Any], out: Path) -> None:
    """Write report.json and report.html into the folder `out`, each whole or not at all.

    The JSON comes first: should a figure fail, the numbers of a long run are already safe. Numbers that are
    not finite (a diverged loss, say) become null, for JSON has no word for them.
    """
    write_json(out / "report.json", _finite(record))
    write_atomic(out / "report.html", render_html(record))


def _finite(value: Any) -> Any:
    """Copy `value` with every NaN and infinity replaced by None."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
