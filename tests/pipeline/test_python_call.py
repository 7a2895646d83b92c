"""`compress` and `load`: objects of this process in, a smaller network and its file out; back in another process."""

import html
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import compressor
from compressor.bench import open_session
from compressor.cli.inspection import inspect_file, inspection_lines
from compressor.costs.params_macs import count_params
from compressor.dependency.inputs import inputs_of
from compressor.errors import ModelError, RecipeError, RunError, TrainingError
from compressor.exporters import OnnxNetwork, export_onnx
from compressor.pipeline import python_call
from compressor.report import summary_lines

pytestmark = pytest.mark.usefixtures("quick_export", "no_figures")

ROOT = Path(__file__).parent.parent.parent
FOUND = os.pathsep.join(
    [str(ROOT), str(ROOT / "tests" / "support"), os.environ.get("PYTHONPATH", "")]
)  # where others look
QUICK = {"bench": {"provider": "cpu", "batch": 1, "warmup": 0, "runs": 2, "threads": 1}, "device": "cpu", "threads": 1}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 13, 3, padding=1), nn.BatchNorm2d(13), nn.ReLU())
        self.more = nn.Sequential(nn.Conv2d(13, 23, 3, padding=1), nn.BatchNorm2d(23), nn.ReLU())
        self.head = nn.Linear(23, 4)

    def forward(self, x):
        return self.head(self.more(self.body(x)).mean((2, 3)))


class Pair(nn.Module):
    """Several inputs, one of them by name; nested outputs."""

    def __init__(self):
        super().__init__()
        self.image, self.extra = nn.Conv2d(3, 13, 3, padding=1), nn.Linear(5, 13)
        self.body = nn.Conv2d(13, 23, 3, padding=1)
        self.box, self.label = nn.Conv2d(23, 4, 1), nn.Linear(23, 7)

    def forward(self, image, extra, *, scale):
        x = torch.relu(self.image(image)) * torch.sigmoid(self.extra(extra))[:, :, None, None]
        x = torch.relu(self.body(x)) * scale[:, None, None, None]
        return {"boxes": self.box(x), "labels": (self.label(x.mean((2, 3))), scale * 2)}


def made(kind, seed=0):
    torch.manual_seed(seed)
    return kind()


def data():
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(120, 1, 8, 8, generator=generator), torch.arange(120) % 4
    whole = TensorDataset(images + labels[:, None, None, None], labels)
    return {"train": whole, "test": whole, "classes": 4}


EXAMPLE = {
    "image": torch.linspace(0, 1, 2 * 3 * 64).view(2, 3, 8, 8),
    "extra": torch.linspace(-1, 1, 10).view(2, 5),
    "scale": torch.tensor([1.0, 0.5]),
}


class Loop:
    def __init__(self):
        self.calls = 0

    def __call__(self, model, data, epochs, device, on_step):
        self.calls += 1
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(4 * epochs):
            found = model(**data)
            loss = found["boxes"].square().mean() + found["labels"][0].square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            on_step(loss)


def judge(model, data):
    return float(model(**data)["boxes"].abs().mean())


def pair(out, **more):
    given = {"data": EXAMPLE, "train": Loop(), "evaluate": judge, "finetune": {"epochs": 1}, "baselines": ["reference"]}
    return compressor.compress(made(Pair), EXAMPLE, budget="0.5x", out=out, **(given | QUICK | more))


@pytest.mark.parametrize(
    "wrap", [lambda model: model, nn.DataParallel, torch.compile], ids=["as it is", "parallel", "compiled"]
)
def test_a_network_and_torch_datasets_in_a_smaller_network_and_its_file_out(tmp_path, wrap):
    model = made(Net)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = compressor.compress(
        wrap(model), torch.zeros(2, 1, 8, 8), budget="0.5x", method="uniform", data=data(), out=tmp_path / "run",
        train={"epochs": 2, "batch_size": 16}, **QUICK,
    )  # fmt: skip
    assert result.met
    assert count_params(result.model) == result.report["params"] <= 0.5 * count_params(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert dict(result.architecture.widths) == {
        "body.0": result.model.body[0].out_channels,
        "more.0": result.model.more[0].out_channels,
    }
    images = torch.rand(5, 1, 8, 8)
    expected = result.model(images).detach()
    torch.testing.assert_close(
        torch.from_numpy(OnnxNetwork(result.onnx_path).logits(images)), expected, rtol=1e-3, atol=1e-4
    )
    begins = json.loads((tmp_path / "run" / "search.json").read_text())["begins"]
    assert begins == {"uniform": "kept", "reference": "given", "result": "kept"}
    torch.testing.assert_close(compressor.load(tmp_path / "run")(images).detach(), expected)


def test_several_inputs_and_nested_outputs_with_functions_of_ones_own(tmp_path):
    result = pair(tmp_path / "run")
    assert result.met
    assert result.report["metric"]["onnx"] == pytest.approx(result.report["metric"]["torch"], rel=1e-4)
    assert result.report["parity"]["batches"] == [1, 2, 3]
    file = onnx.load(result.onnx_path)
    assert [one.name for one in file.graph.input] == ["image", "extra", "scale"]
    assert [one.name for one in file.graph.output] == ["boxes", "labels.0", "labels.1"]
    more = inputs_of(EXAMPLE).of_batch(5)
    found = OnnxNetwork(result.onnx_path).all_outputs(more)
    expected = result.model(**more.kwargs)
    for one, other in zip(found, (expected["boxes"], *expected["labels"]), strict=True):
        torch.testing.assert_close(torch.from_numpy(one), other.detach(), rtol=1e-3, atol=1e-4)


def test_the_report_speaks_of_the_users_task(tmp_path, monkeypatch, capsys):
    result = pair(tmp_path / "run", method="uniform", evaluate={"function": judge, "name": "size", "better": "lower"})
    assert result.report["metric"]["better"] == "lower"
    page = (tmp_path / "run" / "report.html").read_text()
    assert "size, ONNX file" in page
    assert not any(word in page for word in ("accuracy", "classes", "samples scored"))
    monkeypatch.chdir(tmp_path / "run")
    exec(compile(html.unescape(page.split("<pre><code>")[1].split("</code>")[0]), "snippet", "exec"), {})
    assert "labels.1" in capsys.readouterr().out
    told = "\n".join(summary_lines(result.report))
    assert "size: " in told
    assert "accuracy" not in told
    assert "task own" in "\n".join(inspection_lines(inspect_file(result.onnx_path)))


def test_the_real_exporter_takes_several_inputs(tmp_path, monkeypatch):
    from tests.support.quick import exporting_for_real

    exporting_for_real(monkeypatch.setattr)
    result = pair(tmp_path / "run", method="uniform", baselines=[])
    assert result.report["parity"]["max_rel_error"] <= 1e-4
    assert [one.name for one in onnx.load(result.onnx_path).graph.input] == ["image", "extra", "scale"]


def test_inputs_keep_their_names_in_any_order(tmp_path):
    """An example in another order than the network's; a metric that calls by position, and by name."""
    turned = {name: EXAMPLE[name] for name in ("scale", "extra", "image")}

    def judged(model, data):
        one = model(data["image"], data["extra"], scale=data["scale"])
        other = model(scale=data["scale"], image=data["image"], extra=data["extra"])
        assert torch.equal(one["boxes"], other["boxes"])
        return float(one["boxes"].mean())

    given = {"data": EXAMPLE, "train": Loop(), "evaluate": judged, "finetune": {"epochs": 1}, "baselines": []} | QUICK
    result = compressor.compress(made(Pair), turned, budget="0.5x", method="uniform", out=tmp_path / "run", **given)
    assert result.report["metric"]["onnx"] == pytest.approx(result.report["metric"]["torch"], rel=1e-4)
    session = open_session(result.onnx_path, provider="cpu")[0]
    found = session.run(["boxes"], {name: tensor.numpy() for name, tensor in EXAMPLE.items()})[0]
    torch.testing.assert_close(torch.from_numpy(found), result.model(**EXAMPLE)["boxes"].detach(), rtol=1e-3, atol=1e-4)


def test_torch_and_the_file_are_judged_by_the_same_data(tmp_path):
    seen = []

    def judged(model, data, split):
        seen.append(split)
        return float(model(**data)["boxes"].mean())

    pair(tmp_path / "run", evaluate=judged, baselines=[], method="uniform")
    assert seen.count("test") == 2  # of PyTorch's network and of the file
    assert set(seen) == {"validation", "test"}
    with pytest.raises(TrainingError, match="gives nan, not a finite number"):
        pair(tmp_path / "nan", evaluate=lambda model: float("nan"), baselines=[], method="uniform")


def test_an_interrupted_call_goes_on_to_the_same_weights(tmp_path):
    whole = pair(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for name in ("weights.safetensors", "training.json", "export.json", "model.onnx", "latency.json", "report.json"):
        (tmp_path / "cut" / name).unlink()
    again = pair(tmp_path / "cut", resume=True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


ANEW = """
import sys, torch, shutil
sys.path.insert(0, sys.argv[2])
from tests.support import quick
quick.exporting_by_tracing(setattr)
import compressor
from tests.pipeline.test_python_call import EXAMPLE, Pair, made, pair
result = pair(sys.argv[1], resume=True, finetune={"epochs": 1})
print(float(compressor.load(sys.argv[1])(**EXAMPLE)["boxes"].detach().sum()))
"""

ONLY = """
import sys, torch
from tests.pipeline.test_python_call import EXAMPLE, Pair, made
import compressor
for given in ({}, {"model": made(Pair, 3)}):
    print(float(compressor.load(sys.argv[1], **given)(**EXAMPLE)["boxes"].detach().sum()))
"""


def test_networks_with_inputs_of_their_own_go_on_and_come_back_in_a_fresh_process(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", FOUND)
    example = {name: torch.ones_like(tensor) for name, tensor in EXAMPLE.items()}
    out = tmp_path / "run"
    result = pair(out)
    expected = float(result.model(**example)["boxes"].sum().detach())
    for name in ("weights.safetensors", "training.json", "export.json", "model.onnx", "latency.json", "report.json"):
        (out / name).unlink()
    code = ANEW.replace("**EXAMPLE", "**{name: torch.ones_like(tensor) for name, tensor in EXAMPLE.items()}")
    assert float(in_another_process(out, tmp_path, code=code)) == pytest.approx(expected, rel=1e-4)
    code = ONLY.replace("**EXAMPLE", "**{name: torch.ones_like(tensor) for name, tensor in EXAMPLE.items()}")
    values = in_another_process(out, tmp_path, code=code).split()
    assert [float(value) for value in values] == pytest.approx([expected] * 2, rel=1e-4)


def test_a_folder_of_someone_else_runs_no_code(tmp_path):
    out = tmp_path / "run"
    given = {"method": "uniform", "data": data(), "train": {"epochs": 1}, "baselines": []} | QUICK
    compressor.compress(made(Net), torch.zeros(2, 1, 8, 8), budget="0.5x", out=out, **given)
    value = json.loads((out / "architecture.json").read_text())
    hostile = value | {"model": "subprocess:check_output", "options": {"args": ["touch", str(tmp_path / "ran")]}}
    (out / "architecture.json").write_text(json.dumps(hostile))
    with pytest.raises(RunError, match=r"architecture\.json: was damaged or changed"):
        compressor.load(out)
    stages = json.loads((out / "stages.json").read_text())
    (out / "stages.json").write_text(json.dumps(stages | {"files": {}}))
    with pytest.raises(RunError, match=r"it is of subprocess:check_output .*, the recipe of given:Net"):
        compressor.load(out)
    assert not (tmp_path / "ran").exists()


LOAD = """
import sys, torch
sys.path.insert(0, sys.argv[2])
import compressor
try:
    model = compressor.load(sys.argv[1], trust=len(sys.argv) > 3)
except compressor.CompressorError as error:
    print(error)
else:
    print(float(model(torch.ones(2, 1, 8, 8)).detach().double().sum()), model.body[0].out_channels, model.training)
"""

NETS = """
from tests.pipeline.test_python_call import Net as Base

class Mine(Base):
    pass
"""


def in_another_process(*arguments, cache=None, code=None):
    environment = os.environ | ({"COMPRESSOR_CACHE": str(cache)} if cache else {})
    done = subprocess.run(
        [sys.executable, "-c", code or LOAD, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert not done.stderr, done.stderr
    return done.stdout.strip()


def test_the_network_comes_back_in_a_fresh_process(tmp_path, monkeypatch):
    (tmp_path / "nets_of_python_call.py").write_text(NETS)
    monkeypatch.syspath_prepend(str(tmp_path))
    import nets_of_python_call

    monkeypatch.setenv("PYTHONPATH", FOUND)
    out = tmp_path / "run"
    given = {"method": "uniform", "data": data(), "train": {"epochs": 1}, "baselines": []} | QUICK
    result = compressor.compress(
        made(nets_of_python_call.Mine), torch.zeros(2, 1, 8, 8), budget="0.5x", out=out, **given
    )
    expected = float(result.model(torch.ones(2, 1, 8, 8)).double().sum().detach())
    value, width, training = in_another_process(out, tmp_path).split()
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert (int(width), training) == (result.model.body[0].out_channels, "False")
    said = in_another_process(out, tmp_path, cache=tmp_path / "other")
    assert "model.pt: holds pickled objects, whose loading runs code, and this user has not made it" in said
    assert in_another_process(out, tmp_path, "trust", cache=tmp_path / "other").split()[1] == width
    (tmp_path / "nets_of_python_call.py").write_text("")
    assert "give the network that was compressed as model=" in in_another_process(out, tmp_path)
    (out / "model.pt").unlink()
    assert "could not be kept as one; give it as model=" in in_another_process(out, tmp_path)
    again = compressor.load(out, made(nets_of_python_call.Mine, seed=5))
    assert float(again(torch.ones(2, 1, 8, 8)).double().sum().detach()) == pytest.approx(expected, rel=1e-6)


class Acting(Net):
    def __init__(self, slope):
        super().__init__()
        self.slope = slope

    def forward(self, x):
        return self.slope * super().forward(x)


def test_networks_of_one_class_are_told_apart(tmp_path):
    given = {"method": "uniform", "data": data(), "train": {"epochs": 1}, "baselines": []} | QUICK
    example, x = torch.zeros(2, 1, 8, 8), torch.rand(3, 1, 8, 8)
    torch.manual_seed(0)
    one, other = Acting(1.0), Acting(-5.0)
    results = [
        compressor.compress(model, example, budget="0.5x", out=tmp_path / name, **given)
        for name, model in (("one", one), ("other", other))
    ]
    for result in results:
        torch.testing.assert_close(compressor.load(result.folder)(x), result.model(x))
    torch.manual_seed(7)
    for model in (other, Acting(1.0)):  # another setting, and other weights
        with pytest.raises(RunError, match=r"model\.name differs from what the search stage of this run used"):
            compressor.compress(model, example, budget="0.5x", out=tmp_path / "one", resume=True, **given)
    fewer = data() | {"test": TensorDataset(torch.zeros(8, 1, 8, 8), torch.arange(8) % 4)}
    with pytest.raises(RunError, match=r"data\.name differs"):
        compressor.compress(one, example, budget="0.5x", out=tmp_path / "one", resume=True, **(given | {"data": fewer}))
    again = compressor.compress(one.eval(), example, budget="0.5x", out=tmp_path / "one", resume=True, **given)
    assert again.report["metric"] == results[0].report["metric"]


def test_the_network_is_left_as_it_is(tmp_path):
    model = made(Net)
    model.body = torch.compile(model.body, backend="eager")
    given = {"method": "uniform", "data": data(), "train": {"epochs": 1}, "baselines": []} | QUICK
    compressor.compress(model, torch.zeros(2, 1, 8, 8), budget="0.5x", out=tmp_path / "run", **given)
    assert type(model.body).__name__ == "OptimizedModule"


def test_examples_of_a_shuffled_loader_are_the_same_again_and_nobody_elses_draws_change(tmp_path, monkeypatch):
    path, seen = tmp_path / "net.onnx", []
    export_onnx(made(Net).eval(), path, [torch.zeros(1, 1, 8, 8), torch.zeros(3, 1, 8, 8)])
    loader = DataLoader(data()["train"], batch_size=4, shuffle=True)

    def keep(example):
        seen.append(example)
        raise KeyboardInterrupt

    monkeypatch.setattr(python_call, "inputs_of", keep)
    for _ in range(2):
        state = torch.get_rng_state()
        with pytest.raises(KeyboardInterrupt):
            compressor.compress(
                path, budget="0.5x", out=tmp_path / "run", data=loader, train=Loop(), evaluate=lambda model, data: 0.0
            )
        assert torch.equal(torch.get_rng_state(), state)
    first, again = seen
    assert first.shape == (4, 1, 8, 8)
    assert torch.equal(first, again)


class Rows(nn.Module):
    """Inputs (N, channels, length), and a layer whose weight is computed."""

    def __init__(self):
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(5, 13, 3, padding=1))
        self.more, self.head = nn.Conv1d(13, 23, 3, padding=1), nn.Linear(23, 2)

    def forward(self, rows):
        return self.head(torch.relu(self.more(torch.relu(self.conv(rows)))).mean(2)), None


def loop(model, epochs):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(3 * epochs):
        optimizer.zero_grad()
        model(torch.ones(4, 5, 9))[0].square().mean().backward()
        optimizer.step()


def test_rows_of_features_and_computed_weights(tmp_path):
    def size(model):
        return float(model(torch.ones(1, 5, 9))[0].abs().sum())

    given = {"method": "uniform", "train": loop, "evaluate": size, "baselines": []} | QUICK
    example = torch.rand(2, 5, 9).double()
    result = compressor.compress(made(Rows), example, budget={"macs": "0.6x"}, out=tmp_path / "run", **given)
    assert result.met
    assert not (tmp_path / "run" / "model.pt").exists()  # torch does not pickle them
    x = torch.rand(3, 5, 9)
    (found,) = OnnxNetwork(result.onnx_path).all_outputs(inputs_of((x,)))
    torch.testing.assert_close(torch.from_numpy(found), result.model(x)[0].detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: "resnet18", "model: a str; valid: a torch.nn.Module"),
        (
            lambda: torch.jit.trace(nn.Linear(3, 2), torch.rand(1, 3)),
            "valid: a torch.nn.Module that is not TorchScript",
        ),
        (lambda: nn.LazyLinear(3), "has lazy layers without a size"),
        (lambda: nn.utils.weight_norm(nn.Conv2d(1, 3, 3)), "Conv2d cannot be copied"),
        (lambda: Net().double(), "is float64, not float32"),
    ],
    ids=["name", "script", "lazy", "computed", "double"],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_network_is_said_in_one_sentence(tmp_path, model, message):
    model = model()
    if message == "Conv2d cannot be copied":
        model(torch.rand(1, 1, 8, 8)).sum()  # now its weight is no leaf
    with pytest.raises(ModelError, match=message):
        compressor.compress(model, torch.zeros(2, 1, 8, 8), budget="0.5x", data=data(), out=tmp_path / "run")


def test_a_class_within_a_function_is_given_again(tmp_path):
    class Local(Net):
        pass

    out = tmp_path / "run"
    given = {"method": "uniform", "data": data(), "train": {"epochs": 1}, "baselines": []} | QUICK
    compressor.compress(made(Local), torch.zeros(2, 1, 8, 8), budget="0.5x", out=out, **given)
    assert not (out / "model.pt").exists()
    assert isinstance(compressor.load(out), Local)  # this process still has it
    with pytest.raises(ModelError, match="load: model: a str; valid"):
        compressor.load(out, "net")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"data": None}, "compress: data, or train and evaluate, must be given"),
        ({"data": None, "train": Loop()}, "compress: evaluate must be given"),
        ({"method": "tailor"}, "search.method: 'tailor' is not one of"),
        ({"budget": {"parms": 3}}, "budget.parms: unknown key"),
        ({"budget": "half"}, "must be a number such as 580000"),
        ({"budget": 0.5}, "compress: budget: 0.5; valid: a share of the parameters"),
        ({"method": None}, "compress: method: None; valid: a search method's name"),
        ({"out": None}, "compress: out: None; valid: the path of a folder"),
        ({"finetuning": {}}, "finetuning: unknown key"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(tmp_path, more, message):
    given = {"budget": "0.5x", "data": data(), "out": tmp_path / "run"} | more
    with pytest.raises(RecipeError, match=message):
        compressor.compress(made(Net), torch.zeros(2, 1, 8, 8), **given)


def test_inputs_that_do_not_fit_are_said_in_one_sentence(tmp_path):
    for example, message in (
        ("image", "example_input: a str; valid"),
        ((torch.rand(2, 3, 8, 8), torch.rand(3, 5)), "example_input: batches of 2, 3 samples"),
        ({"image": torch.rand(2, 3, 8, 8)}, "does not run"),
    ):
        with pytest.raises(ModelError, match=message):
            compressor.compress(
                made(Pair), example, budget="0.5x", data=EXAMPLE, train=Loop(), evaluate=judge, out=tmp_path / "run"
            )
    with pytest.raises(RecipeError, match=r"export\.precision: int8 needs data that we can read; valid: fp32, fp16"):
        pair(tmp_path / "int8", export={"precision": "int8"})
    with pytest.raises(RunError, match="not a run folder"):
        compressor.load(tmp_path / "nothing")
