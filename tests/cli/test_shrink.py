"""`compressor shrink`: an ONNX file and a folder of images in, a file that takes its place out."""

import html
import json
import runpy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from compressor.cli import main
from compressor.pipeline.python_call import compress, load
from compressor.training.imitation import Originals, agreement, train

GRAPHS = runpy.run_path(str(Path(__file__).parents[2] / "experiments" / "onnx_graphs.py"))
QUICK = ["--set", "bench.runs=2", "--set", "bench.warmup=0", "--set", "bench.batch=1", "--set", "threads=1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Images without classes, with classes, and files of two networks."""
    folder = tmp_path_factory.mktemp("shrink")
    draw = np.random.default_rng(0)
    for number in range(40):
        image = Image.fromarray(draw.integers(0, 255, (4, 4, 3), dtype=np.uint8)).resize((32, 32))
        for target in (f"any/{number % 2}", f"sorted/{'test' if number % 8 > 5 else 'train'}/{number % 2}"):
            (folder / target).mkdir(parents=True, exist_ok=True)
            image.save(folder / target / f"{number}.png")
    onnx.save(GRAPHS["decoder"](17), folder / "decoder.onnx")
    number = GRAPHS["Graph"](17)
    y = number.add("Relu", number.add("Conv", "x", number.weight(6, 3, 3, 3)))
    y = number.add("Flatten", number.add("GlobalAveragePool", y))
    y = number.add("Gemm", y, number.weight(6, 1), transB=0)
    onnx.save(number.model({"x": ("N", 3, 32, 32)}, {y: ("N", 1)}), folder / "number.onnx")
    classes = GRAPHS["Graph"](17)
    y = classes.add("ArgMax", classes.add("Conv", "x", classes.weight(4, 3, 3, 3)), axis=1, keepdims=0)
    found = classes.model({"x": ("N", 3, 32, 32)}, {y: ("N", 30, 30)})
    found.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    onnx.save(found, folder / "classes.onnx")
    onnx.save(GRAPHS["keras_style"](17), folder / "keras.onnx")
    return folder


def shrink(place, out, *arguments):
    command = ["shrink", str(place / arguments[0]), "-o", str(out), "--data", str(place / arguments[1]), *arguments[2:]]
    return CliRunner().invoke(main, [*command, *QUICK])


def ports(path):
    proto = onnx.load(path)
    sides = [
        [(one.name, one.type.tensor_type.elem_type) for one in side] for side in (proto.graph.input, proto.graph.output)
    ]
    return sides, proto.opset_import[0].version


def test_a_network_of_no_task_learns_to_give_what_it_gave(place, tmp_path):
    result = shrink(place, tmp_path / "out", "decoder.onnx", "any", "--budget", "params=0.6x", "--epochs", "2")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["budget"]["met"]
    assert report["metric"]["name"] == "R2"
    assert report["baseline"]["reference"]["metric"]["onnx"] == pytest.approx(1, abs=1e-4)
    assert "cannot be judged" not in result.output
    assert ports(tmp_path / "out" / "model.onnx") == ports(place / "decoder.onnx")


def test_an_operator_set_that_cannot_be_kept_is_said(place, tmp_path):
    proto = onnx.load(place / "number.onnx")
    proto.opset_import[0].version = 24
    onnx.save(proto, tmp_path / "newer.onnx")
    (tmp_path / "any").symlink_to(place / "any")
    result = shrink(tmp_path, tmp_path / "out", "newer.onnx", "any", "--budget", "params=0.7x", "--epochs", "1")
    assert result.exit_code == 0, result.output
    assert ports(tmp_path / "out" / "model.onnx")[1] == 23
    said = "the file is of operator set 23, since it cannot be written in 24"
    assert said in " ".join(result.output.split())
    assert said in " ".join(json.loads((tmp_path / "out" / "report.json").read_text())["remarks"])


def test_a_single_number_is_no_class(place, tmp_path):
    result = shrink(place, tmp_path / "out", "number.onnx", "any", "--budget", "params=0.7x", "--epochs", "1")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["recipe"]["evaluate"]["function"].endswith("imitation:agreement")
    again = shrink(tmp_path / "out", tmp_path / "again", "model.onnx", place / "any", "--budget", "params=0.9x")
    assert again.exit_code == 0, again.output


def test_probabilities_may_be_learned_as_values(place, tmp_path):
    arguments = ("--values", "--budget", "params=0.8x", "--epochs", "1", "--set", "export.precision=fp16")
    result = shrink(place, tmp_path / "out", "keras.onnx", "any", *arguments)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["metric"]["name"] == "R2"
    assert report["baseline"]["reference"]["metric"]["onnx"] == pytest.approx(1, abs=1e-3)
    assert report["metric"]["onnx"] == pytest.approx(report["metric"]["torch"], abs=1e-2)
    assert ports(tmp_path / "out" / "model.onnx") == ports(place / "keras.onnx")


def test_a_classifier_learns_from_itself(place, tmp_path, monkeypatch, capsys):
    arguments = ("--budget", "macs=0.6x", "--epochs", "1", "--set", "search.prune_epochs=1")
    result = shrink(place, tmp_path / "out", "keras.onnx", "any", *arguments)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["recipe"]["data"]["labels"] is False
    assert report["recipe"]["data"]["image_size"] == 32
    assert report["budget"]["met"]
    assert ports(tmp_path / "out" / "model.onnx") == ports(place / "keras.onnx")
    assert "normalised by their own mean" in result.output
    assert "taken for logits of classes" in result.output
    monkeypatch.chdir(tmp_path / "out")
    page = Path("report.html").read_text(encoding="utf-8")
    code = html.unescape(page.split("<pre><code>")[1].split("</code>")[0])
    exec(compile(code, "snippet", "exec"), {})  # whose images the file takes channels last, by another name
    assert len(eval(capsys.readouterr().out)) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("keras.onnx", "nowhere", "--budget", "params=0.5x"), "is not a folder"),
        (("nothing.onnx", "any", "--budget", "params=0.5x"), "nothing.onnx: file not found"),
        (("keras.onnx", "any", "--budget", "params"), "must look like latency=0.5x"),
        (("keras.onnx", "any", "--budget", "params=0.5x,params=0.2x"), "--budget 'params=0.2x': params is given twice"),
        (("keras.onnx", "any", "--budget", "parms=0.5x"), "parms"),
        (("keras.onnx", "any", "--budget", "params=0.5x", "--mean", "grey"), "--mean 'grey'"),
        (("keras.onnx", "any", "--budget", "params=0.5x", "--mean", "0.5"), "--mean: 1 values"),
        (("classes.onnx", "any", "--budget", "params=0.5x"), "gives no floating-point output"),
        (("keras.onnx", "any", "--budget", "params=0.5x", "--method", "magic"), "magic"),
        (("decoder.onnx", "sorted", "--budget", "params=0.5x", "--labels"), "labels say nothing"),
        (("keras.onnx", "sorted", "--budget", "params=0.5x", "--labels"), "must give logits of shape (2, 2)"),
    ],
)
def test_what_is_wrong_is_one_sentence(place, tmp_path, arguments, said):
    result = shrink(place, tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
    assert "Traceback" not in result.output


@pytest.mark.parametrize("noted", ["not json", "0.5", "[0.5]", '["a", "b", "c"]'])
def test_metadata_that_is_none_of_ours_is_one_sentence(place, tmp_path, noted):
    proto = onnx.load(place / "keras.onnx")
    onnx.helper.set_model_props(proto, {"compressor.mean": noted})
    onnx.save(proto, tmp_path / "noted.onnx")
    (tmp_path / "any").symlink_to(place / "any")
    result = shrink(tmp_path, tmp_path / "out", "noted.onnx", "any", "--budget", "params=0.5x")
    assert result.exit_code == 2
    said = "metadata compressor.mean: "
    assert said in result.output
    assert "is not a list of 3 numbers; --mean and --std take its place" in " ".join(result.output.split())


def test_compress_takes_a_file(place, tmp_path):
    """With functions of the user's: the example of its inputs is the file's own."""

    def fit(model, data, epochs, device, on_step):
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        for _ in range(3 * epochs):
            optimizer.zero_grad()
            loss = model(data).square().mean()
            loss.backward()
            optimizer.step()
            on_step(loss)

    found = compress(
        str(place / "decoder.onnx"),
        budget="0.7x",
        method={"method": "taylor", "prune_epochs": 1, "prune_every": 1},
        data=torch.rand(4, 3, 32, 32),
        train=fit,
        evaluate=lambda model, data, device: float(model(data.to(device)).mean()),
        out=tmp_path / "out",
        finetune={"epochs": 1},
        baselines=[],
        bench={"batch": 1, "runs": 2, "warmup": 0, "threads": 1},
        threads=1,
    )
    assert found.met
    assert ports(found.onnx_path) == ports(place / "decoder.onnx")
    again = load(tmp_path / "out")
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(images), found.model(images))


def test_compress_refuses_other_files(tmp_path):
    with pytest.raises(Exception, match=r"path of an \.onnx file"):
        compress("weights.pt", budget="0.5x", out=tmp_path / "out")


class Three(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 4)

    def forward(self, images):
        found = self.layer(images.mean((2, 3)))
        return {"one": found[:, :1], "rest": (found[:, 1:],)}


def test_imitation_ends_in_agreement(place):
    from compressor.data import load_data
    from compressor.recipe.sections import DataConfig

    torch.manual_seed(0)
    data = load_data(DataConfig(name="imagefolder", path=str(place / "any"), labels=False), seed=0)
    originals = Originals(Three().eval(), data, batch_size=8, lr=0.05)
    student, losses = Three(), []
    before = agreement(student, originals, torch.device("cpu"))
    train(student, originals, 20, torch.device("cpu"), lambda loss: losses.append(float(loss)))
    assert losses[-1] < losses[0] / 2
    assert agreement(originals.network, originals, torch.device("cpu")) == 1.0
    assert agreement(student.eval(), originals, torch.device("cpu")) > max(before, 0.5)
