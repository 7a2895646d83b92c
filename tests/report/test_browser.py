"""The pages in a real browser: no errors, nothing asked of the network, no wider than a telephone."""

import html
import re
import shutil
import subprocess

import pytest
import yaml
from click.testing import CliRunner
from small import small_recipe

from compressor.cli.root import main

pytestmark = pytest.mark.usefixtures("quick_export")  # the export has tests of its own

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RAW = small_recipe(
    model={"name": "vgg11_bn", "width": 0.125},
    data={"name": "digits", "image_size": 32, "limit": 128},
    bench={"provider": "cpu", "batch": 1, "warmup": 0, "runs": 3, "threads": 1},
    baselines=None,
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RAW))
    recipe = str(folder / "recipe.yaml")
    assert CliRunner().invoke(main, ["run", recipe, "-o", str(folder / "run")]).exit_code == 0
    arguments = ["sweep", recipe, "--methods", "uniform,random", "--budgets", "0.5x,0.25x", "--seeds", "1"]
    assert CliRunner().invoke(main, [*arguments, "-o", str(folder / "sweep")]).exit_code == 0
    return folder / "run" / "report.html", folder / "sweep" / "comparison.html"


@pytest.mark.slow
def test_no_page_asks_anything_of_the_network(pages):
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r'src="(?!data:)|href="(?!data:text/csv;base64,|#|[\w./-]+/report\.html")', text)
        assert "<script" not in text
        assert "default-src 'none'" in html.unescape(text)
        assert text.count('download="') >= (3 if page.name == "report.html" else 1)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", [0, 1])
def test_a_browser_shows_them_without_a_complaint(pages, tmp_path, width, scheme):
    for number, page in enumerate(pages):
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        options += [f"--user-data-dir={tmp_path / str(number)}", "--enable-logging=stderr", "--hide-scrollbars"]
        options += [f"--window-size={width},3000", f"--blink-settings=preferredColorScheme={scheme}"]
        picture = tmp_path / f"{number}.png"
        done = subprocess.run(
            [BROWSER, *options, f"--screenshot={picture}", page.as_uri()], capture_output=True, text=True, timeout=120
        )
        assert picture.stat().st_size > 10_000
        assert "CONSOLE" not in done.stderr, done.stderr
