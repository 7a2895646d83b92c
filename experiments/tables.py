"""Tables of README and docs whose rows come from the files of numbers, so that what is measured again is what is read.

Such a table stands behind a line `<!-- table: NAME -->`. Its head is written by hand, its rows are those of
`TABLES[NAME]`: `python experiments/evidence.py page` writes them, a test compares.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import table_rows_pages as others
import table_rows_results as results
from evidence_table import ROOT
from table_cells import Rows
from table_rows_readme import reached

from compressor.files import write_atomic

TABLES: dict[str, Callable[[], Rows]] = {
    rows.__name__: rows
    for rows in (
        reached,
        results.cifar10_vgg11,
        results.headline,
        results.along_one_seed,
        results.cifar10_methods,
        results.pruning_speed_full,
        results.removal_engines,
        results.precision_files,
        results.onnx_in,
        results.latency_budgets,
        results.latency_model,
        results.latency_gate,
        results.latency_fastnas,
        others.onnx_accuracy,
        others.kept_weights,
        others.stacked_latency,
        others.tissuenet_counts,
        others.tissuenet_fashion,
        others.tissuenet_vgg16,
        others.tissuenet_resnet18,
        others.growing_baselines,
        others.growing_time,
        others.torchrun,
    )
}
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
        KeyError: a table has a name that there is none of
    """

    def table(found: re.Match[str]) -> str:
        return found[1] + "".join(f"| {' | '.join(map(str, row))} |\n" for row in TABLES[found[2]]())

    return _TABLE.sub(table, text)


def write() -> None:
    """Write the rows of all tables on all pages."""
    for path in pages():
        text = path.read_text(encoding="utf-8")
        if (new := rewritten(text)) != text:
            write_atomic(path, new)
