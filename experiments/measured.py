"""Writes docs/measured.md: which state of the code, which day and which machine every experiment's numbers are of.

    python experiments/measured.py

A test compares the page with the JSON files.
"""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "measured.md"
_HEAD = """# What was measured when

Numbers in README and docs come from these files. Each names the commit that it was measured at; what has changed since
may have changed them. Commits 3b3a77a and 87d956f are of work that was recovered without its history. Written by
`python experiments/measured.py`.

| numbers | by | commit | date | processor |
|---|---|---|---|---|
"""


def page() -> str:
    """The page's text, a row for every file of numbers."""
    rows = []
    for path in sorted((ROOT / "experiments").glob("*.json")):
        numbers = json.loads(path.read_text(encoding="utf-8"))
        scripts = [script for script in path.parent.glob("*.py") if path.stem.startswith(script.stem)]
        script = max(scripts, key=lambda found: len(found.stem)).name
        machine = numbers.get("machine") or {}
        processor = machine.get("cpu") or machine.get("processor") or "not noted"
        rows.append(f"| {path.name} | {script} | {numbers['commit']} | {numbers['date'][:10]} | {processor} |\n")
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
