"""`compare` and `baseline` as a shell sees them; times are injected wherever a verdict is asserted."""

import json
import xml.etree.ElementTree as ET
from io import BytesIO, StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, save_model
from PIL import Image

from compressor.bench import gate
from compressor.bench.inputs import TensorSpec
from compressor.bench.pairs import LOOKS, Pairs
from compressor.cli import latency_gate as commands
from compressor.cli import root as cli
from compressor.cli.options import parse_batches, parse_shapes
from compressor.errors import CompressorError, RecipeError
from compressor.report.ratio_figure import block_percents, ratio_picture

QUICK = ["--provider", "cpu", "--batch", "2"]


def save(path, operator="Relu", axes=("N", 4)):
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, axes) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "g", value[:1], value[1:])
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Run a command in an empty folder with the models a.onnx and b.onnx."""
    folder = tmp_path / "a folder für tests"
    folder.mkdir()
    monkeypatch.chdir(folder)
    save("a.onnx")
    save("b.onnx", "Sigmoid")

    def run(*arguments):
        return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def measured(monkeypatch):
    """Make the candidate slower by a factor that is given for each batch, the blocks differing by a noise."""
    asked = []

    def use(ratios, noise=0.0):
        def measure(base, candidate, conditions, decided, *, looks, progress, clock, max_seconds):
            asked.append((str(base), str(candidate), conditions, clock, max_seconds))
            rng = np.random.default_rng(0)
            logs = np.log(ratios[conditions.batch]) + rng.normal(0, noise, (LOOKS[-1], 1)) + np.zeros((LOOKS[-1], 3))
            times = np.stack([np.ones_like(logs), np.exp(logs)], axis=2)
            spec = (TensorSpec("x", (conditions.batch, 4), "float32"),)
            for look in looks:
                progress(look, looks[-1])
                kept, sessions = times[:look], np.ones((look, 2))
                found = Pairs(kept, kept, "cpu", "cpu", 1, 1.0, 0, sessions, (spec, spec))
                if decided(found):
                    break
            return found

        monkeypatch.setattr(gate, "measure_pairs", measure)
        return asked

    return use


def one_line(result, code=2):
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("text", "share"),
    [("2%", 0.02), ("0.02", 0.02), (" 2 % ", 0.02), ("0.5%", 0.005), ("150%", 1.5), ("999%", 9.99), ("1e-3", 0.001)],
)
def test_shares(text, share):
    assert commands.parse_share("--max-regression", text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "%", "two", "2%%", "0", "0%", "-1%", "1000%", "2", "1", "nan", "nan%", "inf%"])
def test_shares_that_are_none(text):
    with pytest.raises(RecipeError) as caught:
        commands.parse_share("--max-regression", text)
    assert str(caught.value) == (
        f"--max-regression {text!r}: must be 2% or a share below 1 such as 0.02, above 0 and below 1000%"
    )


def test_shapes():
    assert parse_shapes(()) == {}
    assert parse_shapes(("tokens=N,128", "seq=64", "a=b:0= 3 , N ")) == {
        "tokens": ("N", 128),
        "seq": (64,),
        "a=b:0": (3, "N"),
    }


@pytest.mark.parametrize("text", ["", "x", "x=", "=3", "x=3,", "x=-1", "x=n", "x=1.5", "x=3x4", "x=²"])
def test_shapes_that_are_none(text):
    with pytest.raises(CompressorError, match="must look like tokens=N,128"):
        parse_shapes((text,))


def test_a_shape_given_twice_is_refused():
    with pytest.raises(CompressorError, match="--shape 'x=4': 'x' is given twice"):
        parse_shapes(("x=3", "x=4"))


def test_batches():
    assert parse_batches("1") == [1]
    assert parse_batches("8, 1,100") == [8, 1, 100]


@pytest.mark.parametrize("text", ["", "0", "1,,2", "1,1", "-1", "two", "1.5", "²"])
def test_batches_that_are_none(text):
    with pytest.raises(CompressorError, match="must be different whole numbers of 1 or more"):
        parse_batches(text)


@pytest.mark.parametrize(
    ("ratio", "noise", "verdict", "code"),
    [(1.0, 0, "ok", 0), (1.06, 0, "regression", 1), (0.9, 0, "improvement", 0), (1.02, 0.05, "inconclusive", 4)],
)
def test_the_exit_code_is_the_verdict(call, measured, ratio, noise, verdict, code):
    measured({100: ratio}, noise)
    result = call("compare", "a.onnx", "b.onnx")
    assert result.exit_code == code
    (line,) = result.stdout.splitlines()
    assert line.startswith(f"{verdict} at batch 100: ")
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("ratios", "noise", "verdict", "code"),
    [
        ({1: 1.0, 8: 1.5}, 0.0, "regression", 1),
        ({1: 1.5, 8: 1.0}, 0.0, "regression", 1),
        ({1: 1.02, 8: 1.5}, 0.05, "regression", 1),
        ({1: 1.02, 8: 0.8}, 0.05, "inconclusive", 4),
        ({1: 1.0, 8: 0.8}, 0.0, "ok", 0),
        ({1: 0.8, 8: 0.8}, 0.0, "improvement", 0),
    ],
)
def test_the_worst_of_several_batches_counts(call, measured, ratios, noise, verdict, code):
    measured(ratios, noise)
    result = call("compare", "a.onnx", "b.onnx", "--batch", "1,8", "--json", "out/found.json")
    assert result.exit_code == code
    assert [line.split(":")[0].rpartition(" at ")[2] for line in result.stdout.splitlines()] == ["batch 1", "batch 8"]
    record = json.loads(Path("out/found.json").read_text())
    assert (record["verdict"], record["exit_code"]) == (verdict, code)
    assert [one["batch"] for one in record["comparisons"]] == [1, 8]
    assert record["baseline"] is None


def test_options_reach_the_measurement(call, measured):
    asked = measured({3: 1.2})
    options = ["--batch", "3", "--provider", "cuda", "--threads", "0", "--shape", "x=N,4", "--cuda-graph"]
    result = call(
        "compare", "a.onnx", "b.onnx", "--max-regression", "30%", "--clock", "wall", "--max-seconds", "7", *options
    )
    assert result.exit_code == 0, result.output
    ((base, candidate, conditions, clock, seconds),) = asked
    assert (base, candidate, clock, seconds) == ("a.onnx", "b.onnx", "wall", 7.0)
    assert (conditions.provider, conditions.batch, conditions.threads) == ("cuda", 3, None)
    assert (conditions.shapes, conditions.cuda_graph) == ({"x": ("N", 4)}, True)


def test_one_thread_is_the_default(call, measured):
    asked = measured({100: 1.0})
    call("compare", "a.onnx", "b.onnx")
    assert asked[0][2].threads == 1


def test_real_models(call):
    result = call("compare", "a.onnx", "b.onnx", "--max-seconds", "0", *QUICK, "--json", "found.json")
    record = json.loads(Path("found.json").read_text())
    assert result.exit_code == record["exit_code"]
    assert record["comparisons"][0]["blocks"] == 8
    assert np.shape(record["comparisons"][0]["wall_ms"])[::2] == (8, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.onnx", "gone.onnx"], r"gone.onnx is not a file"),
        (
            ["gone", "a.onnx"],
            "BASE 'gone' is not a file, and baseline 'gone' is not in .onnx-baselines, which has none",
        ),
        (["a.onnx", "b.onnx", "--max-regression", "2"], "--max-regression '2': must be 2% or"),
        (["a.onnx", "b.onnx", "--batch", "1,x"], "--batch '1,x': must be"),
        (["a.onnx", "b.onnx", "--shape", "4"], "--shape '4': must look like"),
        (["a.onnx", "b.onnx", "--shape", "z=4"], "shapes names 'z', which is not one of the inputs x"),
        (["a.onnx", "b.onnx", "--picture", "found.pdf"], "--picture found.pdf: must end in .svg or .png"),
        (["a.onnx", "b.onnx", "--clock", "gpu"], "clock 'gpu' is not one of auto, wall, cpu"),
        (["a.onnx", "b.onnx", "--provider", "gpu"], "provider 'gpu' is not one of auto"),
        (["a.onnx", "b.onnx", "--threads", "-1"], "threads=-1 must be 1 or more"),
        (["a.onnx", "b.onnx", "--max-seconds", "-1"], "max_seconds=-1.0 must be 0 or more"),
    ],
)
def test_bad_input_is_one_line(call, arguments, message):
    if "--provider" not in arguments:
        arguments = [*arguments, "--provider", "cpu"]
    assert message in one_line(call("compare", *arguments))


def test_a_fixed_batch_is_told(call):
    save("fixed.onnx", axes=(2, 4))
    assert "has a fixed batch of 2, not batch=100" in one_line(
        call("compare", "a.onnx", "fixed.onnx", "--provider", "cpu")
    )


def test_a_provider_that_is_not_there_is_the_environments_fault(call, monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    assert "provider 'cuda' is not in this build" in one_line(
        call("compare", "a.onnx", "b.onnx", "--provider", "cuda"), code=3
    )


def test_an_interrupt_decides_nothing(call, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(gate, "measure_pairs", interrupted)
    assert one_line(call("compare", "a.onnx", "b.onnx"), code=130) == "error: interrupted; nothing was decided"


def test_progress_is_a_line_every_ten_seconds_where_there_is_no_terminal(monkeypatch, capsys):
    now = iter([0.0, 4.0, 11.0, 12.0, 30.0])
    monkeypatch.setattr(commands, "time", SimpleNamespace(monotonic=lambda: next(now)))
    with commands._Progress("batch 8") as progress:
        for block in range(1, 5):
            progress(block, 128)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == ["  batch 8: block 2 of at most 128", "  batch 8: block 4 of at most 128"]


def test_progress_on_a_terminal_is_one_line_that_goes_away(monkeypatch):
    stream = StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", stream)
    with commands._Progress("batch 8") as progress:
        progress(1, 128)
        shown = stream.getvalue()
        progress(2, 128)
    assert shown.startswith("\r  batch 8: block 1 of at most 128")
    assert "\n" not in stream.getvalue()
    assert stream.getvalue().split("\r")[-2].strip() == ""


def test_baselines_are_saved_listed_shown_and_removed(call):
    saved = call("baseline", "save", "a.onnx", "--provider", "cpu", "--batch", "1,2")
    assert saved.exit_code == 0, saved.output
    assert call("baseline", "save", "b.onnx", "--name", "tests/t.py::t[1]", *QUICK).exit_code == 0
    first, second = call("baseline", "list").stdout.splitlines()
    assert first.startswith("a  20")
    assert [f"at batch {size} on cpu, 1 thread" in first for size in (1, 2)] == [True, True]
    assert second.startswith("tests/t.py::t[1]  20")
    shown = call("baseline", "show", "a").stdout
    assert shown == saved.stdout
    assert {"name     a", "source   a.onnx"} < set(shown.splitlines())
    assert shown.splitlines()[-1].endswith("(this one)")
    assert call("baseline", "rename", "a", "main").stdout == "renamed a to main\n"
    assert call("baseline", "show", "main").stdout == shown.replace("name     a", "name     main")
    taken = call("baseline", "rename", "main", "tests/t.py::t[1]")
    assert taken.exit_code == 2
    assert "'tests/t.py::t[1]' is in .onnx-baselines already; remove it first" in one_line(taken)
    assert call("baseline", "rename", "a", "b").exit_code == 2
    assert call("baseline", "rename", "main", " ").exit_code == 2
    assert call("baseline", "rename", "main", "a").exit_code == 0
    assert call("baseline", "remove", "a").stdout == "removed a\n"
    assert call("baseline", "list").stdout.splitlines() == [second]
    assert "baseline 'a' is not in .onnx-baselines, which has tests/t.py::t[1]; save" in one_line(
        call("baseline", "remove", "a")
    )


def test_baselines_lie_where_they_are_told_to(call):
    assert call("baseline", "save", "a.onnx", "--baselines", "kept", *QUICK).exit_code == 0
    assert call("baseline", "list").stdout == ""
    assert call("baseline", "list", "--baselines", "kept").stdout.startswith("a  ")
    assert not Path(".onnx-baselines").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["save", "gone.onnx"], "gone.onnx is not a file"),
        (["save", "a.onnx", "--name", ""], "the name of a baseline is empty"),
        (["save", "a.onnx", "--batch", "0"], "--batch '0': must be"),
        (["show", "gone"], "baseline 'gone' is not in .onnx-baselines, which has none yet"),
    ],
)
def test_bad_input_for_baselines_is_one_line(call, arguments, message):
    assert message in one_line(call("baseline", *arguments))
    assert not Path(".onnx-baselines").exists()


def move_to_another_machine():
    (file,) = Path(".onnx-baselines").glob("*.json")
    record = json.loads(file.read_text())
    record["machine"] |= {"id": "0" * 16, "cpu": "Z80"}
    record["latencies"][0] |= {"median_ms": 0.000001, "interval_ms": [0.000001, 0.000001]}
    file.write_text(json.dumps(record))


def test_numbers_of_another_machine_are_shown_as_such(call):
    call("baseline", "save", "a.onnx", *QUICK)
    move_to_another_machine()
    lines = call("baseline", "show", "a").stdout.splitlines()
    assert lines[-2].startswith("machine  Z80; gpu ")
    assert lines[-2].endswith(": not this one, so its numbers mean nothing here:")
    assert lines[-1].startswith("  cpu: Z80, here ")
    assert call("baseline", "list").stdout.rstrip().endswith("(another machine)")


@pytest.mark.parametrize("moved", [False, True])
def test_a_baseline_is_measured_anew_and_its_numbers_are_shown_only(call, measured, moved):
    call("baseline", "save", "a.onnx", "--name", "main", *QUICK)
    if moved:
        move_to_another_machine()  # with times that no candidate could match
    asked = measured({2: 1.0})
    result = call("compare", "main", "b.onnx", "--json", "found.json", *QUICK)
    assert result.exit_code == 0
    base = Path(asked[0][0])
    assert base.read_bytes() == Path("a.onnx").read_bytes()
    assert base.parent == Path(".onnx-baselines/models")
    told, verdict = result.stdout.splitlines()
    where = "another machine (cpu: Z80, here " if moved else "this machine then, shown only: median "
    assert told.startswith("baseline main of 20")
    assert where in told
    assert verdict.startswith("ok at batch 2: ")
    stored = json.loads(Path("found.json").read_text())["baseline"]
    assert (stored["name"], stored["sha256"]) == ("main", base.stem)


def test_a_file_goes_before_a_baseline_of_its_name(call, measured):
    call("baseline", "save", "b.onnx", "--name", "a.onnx", *QUICK)
    asked = measured({2: 1.0})
    call("compare", "a.onnx", "b.onnx", *QUICK)
    assert asked[0][0] == "a.onnx"


@pytest.mark.parametrize("batches", ["1", "1,8"])
def test_pictures(call, measured, batches):
    measured({1: 1.06, 8: 1.01}, noise=0.002)
    for name in ("found.svg", "found.png"):
        assert call("compare", "a.onnx", "b.onnx", "--batch", batches, "--picture", name).exit_code == 1
    panels = len(batches.split(","))
    root = ET.fromstring(Path("found.svg").read_text(encoding="utf-8"))
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert sum(text.startswith("batch ") for text in texts) == panels
    assert "batch 1: regression, +" in " ".join(texts)
    assert texts.count("allowed, +2 %") == panels
    with Image.open("found.png") as image:
        assert image.size == (1440, 500 * panels)


def comparison(ratios, **changes):
    """A record with one pair in each block."""
    return {
        "verdict": "ok",
        "batch": 1,
        "clock": "wall",
        "provider": "cuda",
        "threads": 1,
        "ratio": {"median": 1.0, "low": 0.99, "high": 1.01, "level": 0.99},
        "max_regression": 0.02,
        "pairs": len(ratios),
        "seconds": 1.0,
        "base": {"median_ms": 1.0},
        "candidate": {"median_ms": 1.0},
        "wall_ms": [[[2.0, 2.0 * ratio]] for ratio in ratios],
        "cpu_ms": [[[2.0, 9.0]] for _ in ratios],
    } | changes


def test_a_block_is_drawn_by_its_median_ratio_by_the_clock():
    record = comparison([1.01, 0.9])
    assert block_percents(record) == pytest.approx([1, -10])
    assert block_percents(record | {"clock": "cpu"}) == pytest.approx([350, 350])


def test_far_blocks_are_drawn_at_the_edge():
    record = {"comparisons": [comparison([1.0, 1.01, 0.99, 1.0, 1.01, 0.99, 3.0])]}
    text = ratio_picture(record, "svg").decode()
    assert ">above</text>" in text
    assert ">below</text>" not in text
    assert "+200 %" not in text


@pytest.mark.parametrize("ratios", [[1.0], [1.0] * 8, [0.5] * 3])
def test_degenerate_comparisons_are_drawn(ratios):
    record = comparison(ratios, ratio=dict.fromkeys(("median", "low", "high", "level"), ratios[0]))
    picture = ratio_picture({"comparisons": [record]}, "png")
    assert Image.open(BytesIO(picture)).size == (1440, 500)


def test_a_picture_is_the_same_for_the_same_record():
    record = {"comparisons": [comparison([1.0, 1.1, 0.9])]}
    assert ratio_picture(record, "svg") == ratio_picture(record, "svg")


@pytest.mark.parametrize("option", ["--json", "--picture"])
@pytest.mark.parametrize("place", ["/dev/null/x.svg", "folder.svg"])
def test_a_file_that_cannot_be_written_is_refused_before_measuring(call, monkeypatch, option, place):
    from compressor.bench import gate

    monkeypatch.setattr(gate, "compare_latency", lambda *args, **options: pytest.fail("measured"))
    Path("folder.svg").mkdir()
    result = call("compare", "a.onnx", "b.onnx", option, place)
    assert result.exit_code == 2
    assert one_line(result).startswith(f"error: {place}: ")
