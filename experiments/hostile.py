"""Broken and hostile inputs: recipes, ONNX files, data folders, run folders, a full disk, two runs at once, signals.

    python experiments/hostile.py --seed 0

Every case must end in success or in one sentence of ours (of a recipe, one for each problem) with a documented exit
code; nothing that a file contains may be executed, and a run that was ended at a random moment must go on to the same
weights. Whatever does not is listed under `unexpected`. Counts go to experiments/hostile.json.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner
from markupsafe import Markup
from record import commit, write_result
from signalled import signals
from spoiled import TINY, Payload, Tally, mutated
from spoiled_images import Spoils, good_images
from torch import nn

from compressor.cli.inspection import inspect_file, inspection_lines
from compressor.cli.root import main as main_command
from compressor.data import load_data
from compressor.exporters import export_onnx, write_metadata
from compressor.models import build, reference_architecture
from compressor.pipeline.compare import compare_methods
from compressor.pipeline.runner import Stopped, continue_run, run
from compressor.recipe import load_recipe, parse_recipe
from compressor.report import figures as report_figures

HERE = Path(__file__).parent


WORDS = [
    ".nan",
    "-.inf",
    "1e999",
    "99999999999999999999",
    "-1",
    "0",
    "null",
    "true",
    "[]",
    "{}",
    "[x]",
    "!!python/object/apply:os.system",
    "0x",
    "1_0",
    "~",
    "'",
    "&a",
    "*a",
    "{a:",
    "1}",
    "[[[[]]]]",
    "0.5x",
    "1M",
    "x",
    "y:",
    "z",
    "ünï",
    "2026-11-24",
    "0b1",
    ".5",
    "-0.0",
    "1e-400",
    "9e99x",
    "../../../etc/passwd",
    "!!binary",
    "!!set",
    "{a}",
    "|",
    ">",
    "-",
    "?",
    "@",
    "`",
    "%",
    "\u202e",
    "\x00",
    "vgg11_bn::",
    "onnx:",
    ":x",
    "torchvision:_",
]


def recipes(folder: Path, rng: random.Random, tally: Tally, count: int) -> None:
    """Recipe files: bytes changed, values and keys replaced, and some known bombs."""
    shipped = [p.read_text() for p in resources.files("compressor.recipes").iterdir() if p.name.endswith(".yaml")]
    path = folder / "recipe.yaml"
    bombs = [
        b"",
        b"\xff\xfe\x00",
        b"a: &a [x, x]\n" + b"".join(b"b%d: &b%d [*a, *a]\n" % (i, i) for i in range(50)),
        b"a: &a ["
        + b"x," * 9
        + b"]\nb: &b ["
        + b"*a," * 9
        + b"]\nc: &c ["
        + b"*b," * 9
        + b"]\nmodel: ["
        + b"*c," * 9
        + b"]",
        b"model: " + b"[" * 3000 + b"]" * 3000,
        b"model: " + b"{a: " * 900 + b"}" * 900,
        b"model: !!python/object/apply:os.system [echo]",
        b"model: mlp\nmodel: mlp\n",
        b"budget: {params: " + b"9" * 5000 + b"}",
        b"- a\n- b\n",
        b"&a [*a]",
        b"? [a]\n: b\n",
    ]
    for number in range(count):
        if number < len(bombs):
            raw = bombs[number]
        else:
            lines = rng.choice(shipped).splitlines()
            if number % 2:
                raw = mutated("\n".join(lines).encode(), rng)
            else:
                for _ in range(rng.choice((1, 2, 4))):
                    place = rng.randrange(len(lines))
                    head, colon, _ = lines[place].partition(":")
                    lines[place] = f"{head}{colon} {rng.choice(WORDS)}"
                raw = "\n".join(lines).encode(errors="surrogatepass")
        path.write_bytes(raw)
        tally.judge(f"recipe {number}", lambda: load_recipe(path))


def onnx_files(folder: Path, rng: random.Random, tally: Tally, count: int) -> None:
    """ONNX files: bytes changed, or the story in them; read as a network and inspected."""
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)]
    good, path = folder / "good.onnx", folder / "bad.onnx"
    export_onnx(nn.Sequential(*layers), good, [torch.rand(2, 1, 8, 8)])
    raw = good.read_bytes()
    story = {
        "recipe": {"model": {"name": "mlp"}},
        "input": {"dtype": "uint8", "layout": "NHWC", "size": [8, 8], "range": [0, 255], "mean": [0.5], "std": [1]},
        "classes": ["a", "b"],
        "budget": {"params": 10},
        "metric": {"name": "accuracy", "onnx": 0.5, "torch": 0.5},
        "accuracy": {"onnx": 0.5, "torch": 0.5, "samples": 10},
        "architecture": {"model": "mlp", "widths": {"a": 3}},
        "versions": {"torch": "2"},
        "input_shape": [1, 8, 8],
    }
    for number in range(count):
        if number == 0:
            path.write_bytes(pickle.dumps(Payload(tally.marks)))
        elif number % 3:
            path.write_bytes(mutated(raw, rng))
        else:
            told = json.loads(with_another_value(story, rng).replace("1e999", "Infinity"))
            path.write_bytes(raw)
            write_metadata(path, {f"compressor.{key}": json.dumps(value) for key, value in told.items()})
        tally.judge(f"inspect {number}", lambda: inspection_lines(inspect_file(path)))
        if number % 2:
            continue

        def use() -> None:
            build(reference_architecture(f"onnx:{path}", {}, 10, (1, 8, 8)))(torch.rand(2, 1, 8, 8))

        tally.judge(f"onnx {number}", use)


def data_folders(folder: Path, rng: random.Random, tally: Tally, count: int) -> None:
    """Folders of images of which something is wrong."""
    spoils = Spoils(rng, tally).all
    for number in range(count):
        root = folder / "images"
        shutil.rmtree(root, ignore_errors=True)
        spoil = spoils[number % len(spoils)]
        spoil(root, good_images(root, rng))
        section = {"name": "imagefolder", "path": str(root), "validation": rng.choice((0, 0.25))}
        recipe = parse_recipe(TINY | {"data": section | rng.choice(({}, {"image_size": 8}, {"channels": 1}))})

        def load(recipe: Any = recipe) -> None:
            data = load_data(recipe.data, seed=0)
            for split in (data.train, data.validation, data.test):
                split.samples(torch.arange(len(split)))

        tally.judge(f"{spoil.__name__} {number}", load)


def spoil(out: Path, names: list[Path], rng: random.Random, tally: Tally) -> str:
    """Change, cut, exchange or delete one file of a run folder, or put a link or a pipe in its place.

    Every other time it is done without the sums that would tell.
    """
    path = out / rng.choice(names)
    raw, other = path.read_bytes(), (out / rng.choice(names)).read_bytes()
    kind = rng.choice(("pickle", "change", "change", "empty", "gone", "other", "value", "value", "link", "pipe"))
    if kind in ("gone", "link", "pipe"):
        path.unlink()
    if kind == "link":
        path.symlink_to(tally.marks)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "gone":
        pass
    elif kind == "value" and path.suffix == ".json":
        path.write_text(with_another_value(json.loads(raw), rng))
    else:
        made = {"pickle": pickle.dumps(Payload(tally.marks)), "empty": b"", "other": other}
        path.write_bytes(made.get(kind, mutated(raw, rng)))
    stages = out / "stages.json"
    if rng.random() < 0.5 and path != stages and stages.exists():
        stages.write_text(json.dumps({k: v for k, v in json.loads(stages.read_text()).items() if k != "files"}))
    return f"{kind} {path.relative_to(out)}"


def with_another_value(value: Any, rng: random.Random) -> str:
    """A JSON text in which one value is another one, or is missing."""
    others = (None, "x", -1, 0, 1e308, True, [], {}, [{}], "1e999", 2**70, float("nan"))
    place = value
    if not isinstance(place, dict | list):
        value = rng.choice(others)
    while isinstance(place, dict | list):
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = rng.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.8:
            place = place[key]
            continue
        if rng.random() < 0.2:
            del place[key]
        else:
            place[key] = rng.choice(others)
        break
    return json.dumps(value).replace('"1e999"', "1e999")


def copy_of(good: Path) -> tuple[Path, list[Path]]:
    """A copy of a folder to be spoiled, in place of the last one, and its files that are read again."""
    out = good.parent / "spoiled"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(good, out)
    return out, [path.relative_to(out) for path in sorted(out.rglob("*")) if path.is_file() and path.suffix != ".html"]


def run_folders(folder: Path, rng: random.Random, tally: Tally, count: int) -> None:
    """Folders of a run with a reference, after training and at its end, of which one file was spoiled."""
    good = {until: folder / until for until in ("train", "report")}
    for until, place in good.items():
        run(parse_recipe(TINY), place, until=until)
    for number in range(count):
        until = ("train", "report")[number % 2]
        out, names = copy_of(good[until])
        what = spoil(out, names, rng, tally)
        goal = "export" if until == "train" and number % 8 == 0 else until
        with no_figures():
            tally.judge(f"{until}: {what} {number}", partial(continue_run, out, goal))


def comparison_folders(folder: Path, rng: random.Random, tally: Tally, count: int) -> None:
    """Folders of a comparison, before its joint measurement and at its end, of which one file was spoiled."""
    goes_on = partial(compare_methods, parse_recipe(TINY), ("neuralscale", "uniform"), ("0.5x", "params=10"), 1)
    good = {"begun": folder / "begun", "ended": folder / "ended"}
    goes_on(good["ended"])
    shutil.copytree(good["ended"], good["begun"])
    for path in good["begun"].rglob("*"):
        if path.name in ("latency.json", "report.json") or path.name.startswith("comparison."):
            path.unlink()
    for number in range(count):
        state = ("begun", "ended")[number % 2]
        out, names = copy_of(good[state])
        own = [name for name in names if "runs" not in name.parts]
        what = spoil(out, own if number % 3 else names, rng, tally)
        with no_figures():
            tally.judge(f"{state}: {what} {number}", partial(goes_on, out, resume=True))


@contextmanager
def no_figures() -> Iterator[None]:
    """Pages without their figures, which take a second each and are not what this is about."""
    figures = {name: getattr(report_figures, name) for name in dir(report_figures) if name.endswith("_figure")}
    for name in figures:
        setattr(report_figures, name, lambda *given, **named: Markup())
    try:
        yield
    finally:
        for name, own in figures.items():
            setattr(report_figures, name, own)


def checkpoints(folder: Path, rng: random.Random, tally: Tally, count: int) -> None:
    """Checkpoints in the middle of a search or a training, changed or replaced by a pickle."""
    for number in range(count):
        out = folder / "midway"
        shutil.rmtree(out, ignore_errors=True)
        asked, last = 0, rng.randrange(3, 60)

        def enough() -> bool:
            nonlocal asked
            asked += 1
            return asked > last  # noqa: B023 - called in this turn only

        try:
            run(parse_recipe(TINY), out, pause=enough)
        except Stopped as stopped:
            del stopped
        for path in [path for path in (out / "checkpoints").rglob("*") if path.is_file()]:
            content = pickle.dumps(Payload(tally.marks)) if number % 2 else mutated(path.read_bytes(), rng)
            path.write_bytes(content)
        tally.judge(f"checkpoint {number}", partial(run, parse_recipe(TINY), out, resume=True, until="train"))


ARGUMENTS = [
    *("", "x", "-1", "0", "1e9", "--", "-o", "--set", "=", "a=b", "a.b=c", "budget=", "budget.params=x", "../..", "/"),
    *("/dev/null", "nothing.yaml", "\x00", "ünï", "é" * 300, "--resume", "--shape", "x=", "x=0", "N=N", "--batch"),
    *("1,1", "--threads", "--runs", "--json", "/proc/x.json", "--provider", "cuda", "gpu", "--name", "--help"),
    *("--methods", "recipe.yaml", "net.onnx", "net.onnx", "out"),
]


def arguments(folder: Path, rng: random.Random, tally: Tally, count: int) -> None:
    """Command lines: every command with arguments at random, in a folder with a recipe and an ONNX file."""
    os.chdir(folder)
    Path("recipe.yaml").write_text(json.dumps(TINY | {"search": {"method": "uniform"}}))
    export_onnx(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), Path("net.onnx"), [torch.rand(2, 1, 5, 5)])
    for _ in range(count):
        given = [rng.choice(sorted(main_command.commands))]
        given += [rng.choice(ARGUMENTS) for _ in range(rng.randrange(5))]
        if rng.random() < 0.5:
            given += ["--runs", "2", "--warmup", "0"] if given[0] == "bench" else []
        if given[0] in ("run", "train", "export", "report", "sweep") and "--help" not in given:
            given += ["--resum"]  # no option: what is tried is the reading of the others
        tally.tried += 1
        result = CliRunner().invoke(main_command, given)
        if result.exit_code not in (0, 1, 2, 3, 4) or "Traceback" in result.output:
            tally.unexpected.append(f"{given}: {result.exit_code} {result.output[-300:]!r} {result.exception!r}")
        elif result.exit_code:
            tally.refused += 1
        else:
            tally.accepted += 1


def full_disk(folder: Path, rng: random.Random, tally: Tally, count: int) -> None:
    """No file may grow beyond some bytes, as on a full disk; then there is room again and the run goes on."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for number in range(count):
        out = folder / f"full{number}"
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        limit = rng.choice((0, 100, 1000, 5000, 20000))

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            tally.judge(f"full disk {limit}", partial(run, parse_recipe(TINY), out, until="export"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        before = tally.accepted
        tally.judge(f"room again {limit}", partial(run, parse_recipe(TINY), out, resume=True, until="export"))
        if tally.accepted == before:
            tally.unexpected.append(f"full disk {limit}: the run does not go on")


KINDS: dict[str, tuple[Callable[[Path, random.Random, Tally, int], None], int]] = {
    "recipes": (recipes, 10_000),
    "onnx_files": (onnx_files, 2000),
    "data_folders": (data_folders, 2000),
    "run_folders": (run_folders, 1000),
    "comparison_folders": (comparison_folders, 200),
    "checkpoints": (checkpoints, 20),
    "arguments": (arguments, 1000),
    "full_disk": (full_disk, 10),
    "signals": (signals, 60),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="kinds, such as recipes,signals")
    parser.add_argument("--count", type=int, help="of each kind, instead of its own")
    parser.add_argument("--out", type=Path, default=HERE / "hostile.json")
    given = parser.parse_args()
    asked = given.only.split(",") if given.only else list(KINDS)
    if len(asked) > 1:  # each in a process of its own: its peak memory is its own then
        for name in asked:
            command = [sys.executable, __file__, "--seed", str(given.seed), "--only", name, "--out", str(given.out)]
            subprocess.run(command + (["--count", str(given.count)] if given.count else []), check=True)
        return
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ["COMPRESSOR_CACHE"] = tempfile.mkdtemp()
    (name,) = asked
    work, count = KINDS[name]
    with tempfile.TemporaryDirectory() as folder:

        def keep(counts: dict[str, Any]) -> None:
            known = json.loads(given.out.read_text()) if given.out.exists() else {}
            write_kind(given.out, known.get("kinds", {}), name, counts | {"seed": given.seed})

        tally = Tally(Path(folder) / "mark", keep)
        work(Path(folder), random.Random(f"{given.seed} {name}"), tally, given.count or count)
        tally.keep(last=True)
    print(name, json.dumps(tally.counts())[:3000], flush=True)


def write_kind(path: Path, kinds: dict[str, Any], name: str, counts: dict[str, Any]) -> None:
    """Write one kind's counts, with the commit at which they were found, beside those of the others."""
    kinds[name] = counts | {"commit": commit()}
    write_result(path, {"kinds": kinds})


if __name__ == "__main__":
    main()
