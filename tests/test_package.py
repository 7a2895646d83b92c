"""What is published: a source distribution that builds, and a wheel that has everything and works."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from compressor import __version__

ROOT = Path(__file__).parents[1]
RELEASE = re.compile(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d{2}-\d{2})$", re.MULTILINE)
LEFT_OUT = {".git", ".venv", ".data", "runs", "build", "site", "tests", "experiments", "docs"}


def test_the_version_is_the_last_one_of_the_changelog_and_what_is_cited():
    version, day = RELEASE.findall((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))[0]
    assert version == __version__
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (cited["version"], cited["date-released"]) == (version, day)
    assert len(cited["references"]) == 3


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with both, the wheel made from the source distribution."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for path in ROOT.iterdir():
        if path.name not in LEFT_OUT and not path.name.endswith((".egg-info", "_cache")) and path.name != ".mypy":
            (shutil.copytree if path.is_dir() else shutil.copy)(path, source / path.name)
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return out


@pytest.mark.slow
def test_the_wheel_has_every_module_and_file(built):
    (wheel,) = built.glob("*.whl")
    assert wheel.name.startswith(f"onnx_compressor-{__version__}-")
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    data = [path for path in (ROOT / "compressor").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert {"py.typed", "zoo.json", "base.html.j2"} <= {path.name for path in data}
    assert {str(path.relative_to(ROOT)) for path in data} <= names
    assert {f"compressor/recipes/{path.name}" for path in (ROOT / "recipes").glob("*.yaml")} <= names
    modules = {"bench": ROOT / "bench", "exporters": ROOT / "exporters"}
    for name, folder in modules.items():
        for path in folder.rglob("*.py"):
            assert f"compressor/{name}/{path.relative_to(folder)}" in names
    for path in (ROOT / "compressor").rglob("*.py"):
        assert str(path.relative_to(ROOT)) in names


@pytest.mark.slow
def test_the_source_distribution_has_the_licence(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = opened.getnames()
    assert any(name.endswith("/LICENSE") for name in names)
    assert any(name.endswith("/README.md") for name in names)


@pytest.mark.slow
def test_the_wheel_works_where_it_is_installed(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    site = tmp_path / "site"
    options = ["--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True)
    environment = os.environ | {"PYTHONPATH": str(site)}
    code = "import compressor; print(compressor.__file__); from compressor.cli import main; main()"
    for arguments, told in ((["recipes", "list"], "quickstart"), (["models"], "vgg11_bn")):
        words = [sys.executable, "-c", code, *arguments]
        ended = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.startswith(str(site))
        assert told in ended.stdout


@pytest.mark.slow
@pytest.mark.skipif(find_spec("twine") is None, reason="twine is not installed")
def test_an_index_can_show_its_description(built):
    words = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built.iterdir())]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
