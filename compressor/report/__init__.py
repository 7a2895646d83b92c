"""Run records as evidence: one HTML page, a few lines for the terminal, two numbers to compare networks by.

    record (a dict, as in report.json) ──▶ values ──▶ page (HTML) ◀── figures (SVG)
                                              └─────▶ terminal (text)
    runs of a comparison ──▶ aggregate ──▶ methods (HTML, CSV) ◀── method_figures (SVG)

Nothing here imports torch, and matplotlib is imported only when a figure is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.files import write_atomic, write_json
from compressor.report.aggregate import summarise
from compressor.report.methods import render_methods, runs_csv
from compressor.report.page import render_html
from compressor.report.terminal import comparison_lines, summary_lines
from compressor.report.values import Metric, dig, efficiency, efficiency_of, metric_of, score_of

__all__ = [
    "Metric",
    "comparison_lines",
    "dig",
    "efficiency",
    "efficiency_of",
    "metric_of",
    "render_html",
    "render_methods",
    "score_of",
    "summarise",
    "summary_lines",
    "write_comparison",
    "write_report",
]


def write_report(record: Mapping[str, Any], out: Path) -> None:
    """Write report.json and report.html into the folder `out`, each whole or not at all.

    The JSON comes first: should a figure fail, the numbers of a long run are already safe. Numbers that are
    not finite (a diverged loss, say) become null, for JSON has no word for them.
    """
    write_json(out / "report.json", _finite(record))
    write_atomic(out / "report.html", render_html(record))


def write_comparison(record: Mapping[str, Any], out: Path) -> None:
    """Write comparison.json, comparison.csv and comparison.html into the folder `out`, each whole or not at all."""
    write_json(out / "comparison.json", record)
    write_atomic(out / "comparison.csv", runs_csv(record))
    write_atomic(out / "comparison.html", render_methods(record))


def _finite(value: Any) -> Any:
    """Copy `value` with every NaN and infinity replaced by None."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
