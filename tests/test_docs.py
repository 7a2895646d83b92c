"""README and docs: recipes parse, commands are ones there are, Python runs, pages and links exist."""

import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import onnx
import pytest
import torch
import yaml
from torch import nn

import compressor
from compressor.cli.root import main
from compressor.exporters.onnx_file import export_by_tracing
from compressor.recipe import parse_recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BASE = {"model": "mlp", "data": "digits", "budget": {"params": "0.5x"}, "search": {"method": "uniform"}}


def blocks(language):
    """(page, text) of all fenced blocks of a language."""
    fence = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [(page, text) for page in PAGES for text in fence.findall(page.read_text(encoding="utf-8"))]


def named(found):
    return [pytest.param(text, id=f"{page.stem} {place}") for place, (page, text) in enumerate(found)]


@pytest.mark.parametrize("text", named(blocks("yaml")))
def test_recipes_that_are_shown_are_valid(text):
    lines = text.splitlines(keepends=True)
    starts = [place for place, line in enumerate(lines) if re.match(r"\w", line)]
    sections = ["".join(lines[begin:end]) for begin, end in itertools.pairwise([*starts, len(lines)])]
    variants = {}
    for section in sections:  # a key that is there twice shows two ways
        for key, value in yaml.safe_load(section).items():
            variants.setdefault(key, []).append(value)
    for values in itertools.product(*variants.values()):
        shown = dict(zip(variants, values, strict=True))
        made = parse_recipe(BASE | shown)
        assert shown.keys() <= made.model_fields_set
        assert made.budget.names == parse_recipe(BASE | {"budget": shown.get("budget", BASE["budget"])}).budget.names


def commands():
    """Words of every command of ours that a page shows in a line of its own."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        found += [(page, line.strip()) for line in re.findall(r"^    (compressor .*)$", text, re.MULTILINE)]
    return [pytest.param(shlex.split(line, comments=True)[1:], id=f"{page.stem}: {line}") for page, line in found]


@pytest.mark.parametrize("words", commands())
def test_commands_that_are_shown_can_be_given(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    for name in ("photos", "runs/mine"):
        (tmp_path / name).mkdir(parents=True)
    for name in [word for word in words if word.endswith(".onnx")]:
        (tmp_path / name).touch()
    command, context, rest = main, click.Context(main, info_name="compressor"), words
    while isinstance(command, click.Group):
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, list(rest), parent=context)
        rest = [*context._protected_args, *context.args]
    assert not rest


PYTHON = blocks("python")
GATE = next(text for page, text in PYTHON if page.stem == "latency-gate")


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 128, 3), nn.BatchNorm2d(128), nn.ReLU(), nn.Conv2d(128, 128, 3, 2), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 4)).eval()


def train(model, data, epochs):
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(epochs):
        optimizer.zero_grad()
        model(data).square().mean().backward()
        optimizer.step()


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("shown") / "model.onnx"
    export_by_tracing(network(), torch.zeros(2, 3, 32, 32), path, 18)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"compressor.classes": json.dumps(["a", "b", "c", "d"])})
    onnx.save(model, path)
    return path


@pytest.fixture
def space(tmp_path, monkeypatch, onnx_file):
    """What the examples take for granted: a small network, samples, files, functions of the reader's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for name in ("model.onnx", "detector.onnx", "models/detector.onnx"):
        shutil.copy(onnx_file, tmp_path / name)
    images = torch.randn(32, 3, 32, 32)
    samples = torch.utils.data.TensorDataset(images, torch.arange(32) % 4)
    samples.classes = ["a", "b", "c", "d"]
    given = {"model": network(), "example_input": images[:2], "train_set": samples, "test_set": samples}
    return (
        given
        | {"my_data": images, "my_train": train, "my_map": lambda model, data: 1.0, "__name__": "shown"}
        | {"compressor": compressor}
    )


@pytest.mark.usefixtures("quick_export", "no_figures")
@pytest.mark.parametrize("text", named((page, text) for page, text in PYTHON if text != GATE))
def test_python_that_is_shown_runs(text, space):
    before = set(space)
    exec(compile(text, "docs", "exec"), space)
    made = {name: value for name, value in space.items() if name not in before and name != "__builtins__"}
    assert made
    for value in made.values():
        if isinstance(value, compressor.Compressed):
            assert Path(value.onnx_path).is_file()
            assert value.report["budget"]["met"]
    assert json.loads(made.get("classes", '["a"]'))[0] == "a"


def test_the_test_that_is_shown_passes(space, tmp_path):
    (tmp_path / "test_shown.py").write_text(GATE, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    words = [sys.executable, "-m", "pytest", "--onnx-latency-only", "--onnx-latency-update", "test_shown.py"]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 passed" in ended.stdout, ended.stdout + ended.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            assert (page.parent / link.partition("#")[0]).exists(), link


def test_every_page_is_in_the_table_of_contents():
    told = re.findall(r"^\s+- (\w[\w-]*\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(told) == sorted(page.name for page in PAGES[1:])


def test_the_readme_is_two_screens():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 110


def test_numbers_of_the_readme_are_those_of_the_results():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    results = " ".join((ROOT / "docs" / "results.md").read_text(encoding="utf-8").split())
    found = re.findall(r"[\d.]+ ± [\d.]+", text)
    assert len(found) >= 10
    for numbers in found:
        assert numbers in results, numbers


def test_the_pages_build_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site"), "--quiet"]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    pages = json.loads((tmp_path / "site" / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    assert any("compress(" in page["text"] or "compressor.compress" in page["title"] for page in pages)
