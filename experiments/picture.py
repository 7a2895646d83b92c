"""The picture in the README: the top of a report, as headless Chromium shows it.

python experiments/picture.py runs/quickstart/report.html docs/images/report.png
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

SIZE = (1280, 800)  # pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        raise SystemExit("no Chromium is installed")
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        words += [f"--user-data-dir={profile}", f"--window-size={SIZE[0]},{SIZE[1]}"]
        words += [f"--screenshot={arguments.picture.resolve()}", arguments.page.resolve().as_uri()]
        subprocess.run(words, check=True, capture_output=True)


if __name__ == "__main__":
    main()
