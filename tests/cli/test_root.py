"""The commands as a shell sees them: what they print, and the exit code of everything that can go wrong."""

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from compressor import recipe
from compressor.cli import root as cli
from compressor.errors import CompressorError, UnavailableError
from compressor.models import families

QUICK = """
model: {name: mlp, width: 0.02}
data: {name: digits, image_size: 8, limit: 200}
budget: {params: 300}
search: {method: uniform}
train: {epochs: 1, batch_size: 64}
bench: {provider: cpu, batch: 2, warmup: 0, runs: 2, threads: 1}
baselines: []
device: cpu
threads: 1
"""


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Run a command in an empty folder whose name is hard to quote."""
    folder = tmp_path / "a folder für tests"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("quick.yaml").write_text(QUICK)

    def run(*arguments):
        return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])

    return run


def one_line(result, code=2):
    """The error message, once it is sure that it is all there is."""
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.startswith(" ")]  # progress is indented
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


def commands(group=cli.main, path=()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_every_command_shows_an_example_in_its_help(call, path):
    result = call(*path, "--help")
    assert result.exit_code == 0
    _, example = result.stdout.split("Example:\n")
    assert example.startswith(f"  compressor {' '.join(path)}")


def test_the_examples_parse(call):
    """Every option and argument count of an example is one that the command takes."""
    for path in commands():
        command = cli.main
        for name in path:
            command = command.commands[name]
        words = command.epilog.split(" > ")[0].split()[1 + len(path) :]
        assert command.make_context(path[-1], words)


def test_help_lists_every_command_and_the_version_is_told(call):
    listed = call("-h").stdout
    assert all(f"  {path[0]} " in listed for path in commands())
    assert call("--version").stdout.startswith("compressor, version ")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["recipes", "list"], ["schema"]])
def test_light_commands_import_no_torch(arguments):
    code = f"""
import sys
from compressor.cli.root import main
try:
    main({arguments!r})
finally:
    heavy = sorted({{"torch", "onnx", "onnxruntime", "numpy", "sklearn"}} & set(sys.modules))
    heavy = [name for name in heavy if (name, {arguments!r}) != ("numpy", ["schema"])]  # the search methods' own
    print(heavy, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert done.stdout


def test_bad_input_in_a_real_process(tmp_path):
    path = tmp_path / "bad rècipe.yaml"
    path.write_text(QUICK + "budgets: {}\nsed: 3\n")
    command = [sys.executable, "-m", "compressor", "run", str(path), "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert [line.partition(": unknown key")[0] for line in lines] == [
        f"error: {path}: budgets",
        f"error: {path}: sed",
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("budget.latency_ms=0.5x", "error: quick.yaml: budget.latency_ms: '0.5x' is not valid: must be milliseconds"),
        ("search.method=unform", "error: quick.yaml: search.method: 'unform' is not one of .*did you mean uniform"),
        ("train.epoch=1", r"error: quick.yaml: train.epoch: unknown key: .*did you mean epochs\?"),
        ("seed", "error: --set 'seed': must look like"),
        ("model=mpl", r"error: model.name: 'mpl' is not one of .*did you mean mlp\?"),
        ("model=nowhere:net", "error: model.name: cannot import nowhere:net"),
        ("data=digit", r"error: data.name: 'digit' is not one of .*did you mean digits\?"),
        ("data={name: imagefolder, path: not here/bilder}", "error: data.path: 'not here/bilder' is not a folder"),
        ("budget.params=1", "error: budget.params: 1 cannot be met: with 1 channel"),
    ],
)
def test_a_recipe_that_cannot_run(call, override, message):
    result = call("run", "quick.yaml", "-o", "out", "--set", override)
    assert re.match(message, one_line(result))


def test_a_recipe_that_is_not_there(call):
    assert "missing.yaml: cannot be read: No such file" in one_line(call("run", "missing.yaml", "-o", "out"))
    assert "cannot be read: Is a directory" in one_line(call("search", ".", "-o", "out"))
    assert not Path("out").exists()


def test_an_out_that_cannot_be_one(call):
    Path("full").mkdir()
    Path("full", "mine.txt").write_text("mine")
    Path("file").write_text("mine")
    assert "full: is not empty and holds no run" in one_line(call("run", "quick.yaml", "-o", "full"))
    assert "full: is not empty" in one_line(call("run", "quick.yaml", "-o", "full", "--resume"))
    assert "file: is a file, not a folder" in one_line(call("run", "quick.yaml", "-o", "file"))
    assert "cannot be written" in one_line(call("run", "quick.yaml", "-o", "file/below"))
    assert [path.name for path in Path("full").iterdir()] == ["mine.txt"]


def test_a_run_folder_keeps_its_recipe(call):
    assert call("search", "quick.yaml", "-o", "out").stdout == "search done: out/architecture.json\n"
    assert "out: already holds a run; add --resume" in one_line(call("run", "quick.yaml", "-o", "out"))
    other = call("run", "quick.yaml", "-o", "out", "--resume", "--set", "seed=3", "--set", "train.lr=0.2")
    assert "recipe.yaml: seed differs from what the search stage of this run used" in one_line(other)
    again = call("search", "quick.yaml", "-o", "out", "--resume")
    assert (again.exit_code, again.stdout) == (0, "search done: out/architecture.json\n")


@pytest.mark.parametrize("command", ["train", "export", "report"])
def test_a_folder_that_is_no_run(call, command):
    Path("empty").mkdir()
    for folder in ("empty", "nowhere", "quick.yaml"):
        assert f"{folder}: not a run folder: it has no recipe.yaml" in one_line(call(command, folder))


def test_recipes_are_listed_shown_and_copied(call):
    listed = call("recipes", "list").stdout.splitlines()
    names = [line.split()[0] for line in listed]
    assert "quickstart" in names
    assert all(len(line.split()) > 3 for line in listed)
    for name in names:
        shown = call("recipes", "show", name).stdout
        assert recipe.parse_recipe(yaml.safe_load(shown))
        assert call("recipes", "copy", f"{name}.yaml", f"copies/{name}.yaml").stdout == f"copies/{name}.yaml\n"
        assert Path(f"copies/{name}.yaml").read_text(encoding="utf-8") == shown


def test_a_copy_overwrites_nothing(call):
    Path("mine.yaml").write_text("mine")
    assert "mine.yaml: exists already" in one_line(call("recipes", "copy", "quickstart", "mine.yaml"))
    assert "exists already" in one_line(call("recipes", "copy", "quickstart", "."))
    assert Path("mine.yaml").read_text() == "mine"
    message = one_line(call("recipes", "show", "quikstart"))
    assert message.startswith("error: recipe 'quikstart' is not one of ")
    assert message.endswith("(did you mean quickstart?)")


def test_the_schema_is_printed(call):
    assert json.loads(call("schema").stdout) == recipe.schema()


def test_widths_lists_the_groups_that_a_recipe_may_name(call):
    lines = call("widths", "torchvision:resnext50_32x4d", "--shape", "3,32,32").stdout.splitlines()
    assert ["layer1.0.conv1", "128", "32"] in [line.split() for line in lines]
    assert lines[-1] == "fixed: fc: its width is the network's output"
    listed = call("widths", "preact_resnet18", "--option", "shortcut=conv").stdout
    assert "layer1.1.conv2" in listed
    assert "layer1.1.conv2" not in call("widths", "preact_resnet18").stdout  # shares conv1's width
    assert ["lstm1", "1,500", "1"] in [
        line.split() for line in call("widths", "lstm", "--shape", "35").stdout.splitlines()
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vgg12_bn"], "'vgg12_bn' is not one of"),
        (["vgg11_bn", "--shape", "3x32"], "--shape '3x32': must be three whole numbers such as 3,32,32"),
        (
            ["lstm", "--shape", "35,2"],
            "--shape '35,2': must be three whole numbers such as 3,32,32, or one, the length",
        ),
        (["lstm"], "lstm needs sequences of tokens"),
        (["vgg11_bn", "--shape", "3,999999999,999999999"], "input shape (3, 999999999, 999999999): RuntimeError: Stor"),
        (["preact_resnet18", "--option", "shortcut"], "--option 'shortcut': must look like shortcut=conv"),
        (["preact_resnet18", "--option", "shortcut=none"], "model.options.shortcut: 'none' is not one of"),
    ],
)
def test_widths_of_what_is_not_there(call, arguments, message):
    result = call("widths", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_models_lists_the_zoo(call):
    listed = {line.split()[0]: line for line in call("models").stdout.splitlines()}
    assert set(listed) >= set(families())
    assert "9,231,114" in listed["vgg11_bn"]
    assert "shortcut: identity|conv|convcut" in listed["resnet20"]


def test_doctor_tells_versions_and_providers(call):
    result = call("doctor")
    assert result.exit_code == 0
    told = dict(line.split(None, 1) for line in result.stdout.splitlines() if not line.startswith("provider "))
    assert told["compressor"]
    assert told["torch_device"]
    assert "provider cpu       works" in result.stdout
    assert result.stdout.count("\nprovider ") == 5


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (CompressorError("a: b"), 2, "error: a: b\n"),
        (UnavailableError("no GPU"), 3, "error: no GPU\n"),
        (OSError(28, "No space left on device", "out/x"), 2, "error: out/x: No space left on device\n"),
        (SystemExit("no licence"), 2, "error: code of others that was called ends the process: no licence\n"),
        (SystemExit(1), 2, "error: code of others that was called ends the process: 1\n"),
        (MemoryError("1 TiB"), 3, "error: out of memory: 1 TiB\n"),
        (KeyboardInterrupt(), 130, "error: interrupted; a run goes on with the same command and --resume\n"),
    ],
)
def test_exit_codes_of_errors(call, monkeypatch, error, code, text):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(recipe, "load_recipe", fail)
    result = call("run", "quick.yaml", "-o", "out")
    assert (result.exit_code, result.stderr) == (code, text)


def test_a_bug_keeps_its_traceback(call, monkeypatch):
    def fail(*arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(recipe, "load_recipe", fail)
    result = call("run", "quick.yaml", "-o", "out")
    assert result.exit_code == 70
    assert "Traceback" in result.stderr
    assert "a bug in compressor" in result.stderr.splitlines()[-1]
