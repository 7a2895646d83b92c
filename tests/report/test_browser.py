"""The pages in a real browser: no errors, nothing asked of the network, no wider than a telephone."""

import html
import json
import re
import shutil
import subprocess

import pytest
import yaml
from click.testing import CliRunner
from own_script import assert_only_its_own_script_runs
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
        assert_only_its_own_script_runs(text)
        assert text.count('download="') >= (3 if page.name == "report.html" else 1)


def browse(page, folder, width, scheme, *options):
    """What a browser does with a page in a frame of that width, light (1) or dark (0): standard output and error.

    A window of its own is at least 500 pixels wide.
    """
    frame = folder / f"frame-{page.stem}-{width}-{scheme}.html"
    frame.write_text(
        '<!DOCTYPE html><meta name="color-scheme" content="light dark"><style>body { margin: 0 }</style>'
        '<script>addEventListener("message", (told) => { document.title = told.data; });</script>'
        f'<iframe src="{page.as_uri()}" width="{width}" height="3000" style="border: 0"></iframe>',
        encoding="utf-8",
    )
    given = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    given += [f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--window-size=1280,3000"]
    given += [f"--blink-settings=preferredColorScheme={scheme}", "--virtual-time-budget=2000", *options]
    done = subprocess.run([BROWSER, *given, frame.as_uri()], capture_output=True, text=True, timeout=120)
    return done.stdout, done.stderr


def probed(page, folder, width, scheme, script):
    """What an expression says in a page: a copy may run it beside the page's own script."""
    text = re.sub(r"<meta http-equiv=[^>]*>", "", page.read_text(encoding="utf-8"))
    told = f'<script>parent.postMessage(JSON.stringify({script}), "*");</script></body>'
    copy = folder / f"probed-{page.name}"
    copy.write_text(text.replace("</body>", told), encoding="utf-8")
    found, _ = browse(copy, folder, width, scheme, "--dump-dom")
    return json.loads(html.unescape(re.search(r"<title>(.*?)</title>", found, re.DOTALL)[1]))


# Luminance and contrast as WCAG 2.1 has them. What lies behind a text is the first ancestor's colour that is not clear.
CONTRASTS = """(() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (let one = node; one; one = one.parentElement) {
      const colour = parse(getComputedStyle(one).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const node of document.querySelectorAll("main *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || !node.getClientRects().length) continue;
    const drawn = node.closest("svg"), style = getComputedStyle(node);
    const [a, b] = [light(parse(drawn ? style.fill : style.color)), light(behind(node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5 && !node.closest(".legend")) found.push([node.textContent.trim().slice(0, 40), ratio]);
  }
  return found;
})()"""
SORTED = """(() => {
  const table = document.querySelector("table.channels"), button = table.querySelectorAll("thead button")[1];
  const told = () => [...table.tBodies[0].rows].map((row) => row.cells[1].textContent);
  const orders = [told()];
  for (let click = 0; click < 3; click += 1) { button.click(); orders.push(told()); }
  return { orders, label: button.textContent, keyboard: button.tabIndex };
})()"""
OPEN = """(() => {
  dispatchEvent(new Event("beforeprint"));
  return { folded: document.querySelectorAll("details:not([open])").length,
    over: [...document.querySelectorAll(".wide")].filter((box) => box.scrollWidth > box.clientWidth + 1)
      .map((box) => [box.textContent.trim().slice(0, 60), box.scrollWidth, box.clientWidth]) };
})()"""
WIDE = """({ page: document.documentElement.scrollWidth, window: innerWidth,
  boxes: [...document.querySelectorAll(".wide")].map((box) => [box.scrollWidth > box.clientWidth, box.tabIndex]),
  smallest: Math.min(...[...document.querySelectorAll("svg text")].filter((one) => one.getClientRects().length)
    .map((one) => [parseFloat(getComputedStyle(one).fontSize), one.getScreenCTM()])
    .map(([size, drawn]) => size * Math.hypot(drawn.a, drawn.b))) })"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", [0, 1])
def test_a_browser_shows_them_without_a_complaint(pages, tmp_path, width, scheme):
    for number, page in enumerate(pages):
        picture = tmp_path / f"{number}.png"
        _, complaints = browse(page, tmp_path, width, scheme, f"--screenshot={picture}")
        assert picture.stat().st_size > 10_000
        assert "CONSOLE" not in complaints, complaints
        assert probed(page, tmp_path, width, scheme, CONTRASTS) == []


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_telephone_scrolls_within_tables_and_can_read_the_figures(pages, tmp_path):
    for page in pages:
        found = probed(page, tmp_path, 390, 1, WIDE)
        assert found["window"] == 390
        assert found["page"] <= 390
        assert found["smallest"] >= 8  # pixels
        for scrolls, reached in found["boxes"]:
            assert reached == (0 if scrolls else -1)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_nothing_is_cut_on_paper(pages, tmp_path):
    for page in pages:
        printed = tmp_path / f"printed-{page.name}"
        printed.write_text(page.read_text(encoding="utf-8").replace("@media print", "@media screen"), encoding="utf-8")
        found = probed(printed, tmp_path, 718, 1, OPEN)  # A4 within usual margins
        assert found["over"] == []
        assert found["folded"] == 0


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_heading_sorts_its_table_up_and_down_and_back(pages, tmp_path):
    found = probed(pages[0], tmp_path, 1280, 1, SORTED)
    first, up, down, back = found["orders"]
    numbers = sorted(first, key=int)
    assert first != numbers or len(set(first)) > 1
    assert up == numbers
    assert down == numbers[::-1]
    assert back == first
    assert (found["label"], found["keyboard"]) == ("unscaled network", 0)
