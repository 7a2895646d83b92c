"""Peak activation memory: the rules on drawings, the file against the estimate, and runs under such a budget."""

import json

import numpy as np
import onnx
import pytest
import torch
from small import small_recipe
from torch import nn

from compressor.costs.kinds.activation_bytes import Step, _traced, of_file, peak, values_at_once
from compressor.errors import ExportError
from compressor.exporters import SCHEMES, Form, export_onnx, finish
from compressor.models import build, example_input, reference_architecture
from compressor.models.architecture import Architecture
from compressor.models.initialise import noise_like, scatter_
from compressor.pipeline import run
from compressor.recipe import parse_recipe

#   x ──▶ a ──▶ b ──▶ out        a chain
#         └───────────▲          … and a shortcut from a, added into out
SIZES = {"x": 2, "a": 13, "b": 7, "out": 13}


def chain(*more, over=False):
    return [Step(("x",), ("a",), False), Step(("a",), ("b",), False), Step(("b", *more), ("out",), over)]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (chain(), 13 + 7),  # a and b
        (chain(over=True), 13 + 7),  # b is too small to be written over
        (chain("a"), 13 + 7 + 13),  # a lives until the sum is made
        (chain("a", over=True), 13 + 7),  # the sum takes the place of a
        ([*chain("a", over=True), Step(("a", "out"), ("end",), False)], 13 + 7 + 13),  # not if a is read again
        ([*chain(), Step(("x",), ("end",), False)], 2 + 13 + 7),  # what is read late lives long
    ],
)
def test_a_tensor_lives_from_its_making_to_its_last_reading(steps, expected):
    assert peak(steps, SIZES | {"end": 1}, ["x"], {steps[-1].makes[0]}) == expected


def test_outputs_live_to_the_end_and_what_nothing_reads_does_not():
    steps = [Step(("x",), ("a", "b"), False), Step(("x",), ("out",), False)]
    assert peak(steps, SIZES, ["x"], {"a", "out"}) == 2 + 13 + 13
    assert peak(steps, SIZES, ["x"], {"out"}) == 2 + 13 + 7


class Residual(nn.Module):
    """13 channels in a shortcut around 7."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 13, 3, padding=1, bias=False), nn.BatchNorm2d(13), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(13, 7, 3, padding=1), nn.BatchNorm2d(7), nn.ReLU(), nn.Conv2d(7, 13, 1))
        self.last = nn.Linear(13, 10)

    def forward(self, x):
        x = self.first(x)
        return self.last(torch.relu(x + self.inner(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def residual(tmp_path_factory):
    path, images = tmp_path_factory.mktemp("residual") / "net.onnx", torch.rand(2, 3, 8, 8)
    scatter_(model := Residual())
    export_onnx(model, path, [images], opset=20, tolerance=1.0)
    return path, images.numpy()


def test_of_a_residual_block_both_ends_and_its_middle_count(residual):
    assert of_file(residual[0], (3, 8, 8)) == 4 * 64 * (13 + 7 + 13)
    assert of_file(residual[0], (3, 16, 16)) == 4 * 64 * (13 + 7 + 13)  # the file says 8 x 8


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (Form("fp16"), 2 * 64 * (13 + 7 + 13)),
        (Form(batch=3), 3 * 4 * 64 * (13 + 7 + 13)),
        (Form("int8"), 64 * (13 + 7 + 13)),
        (Form("int8", "uint8", (0.5,) * 3, (0.2,) * 3), 64 * (13 + 7 + 13)),
    ],
    ids=str,
)
def test_values_count_in_the_type_that_the_file_has(residual, form, expected, tmp_path):
    source, images = residual
    finish(source, tmp_path / "net.onnx", form, SCHEMES["u8s8"] if form.precision == "int8" else None, [images])
    assert of_file(tmp_path / "net.onnx", (3, 8, 8)) == expected


def test_a_size_that_cannot_be_told_is_an_error(tmp_path):
    one = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 4])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT64, None)
    graph = onnx.helper.make_graph([onnx.helper.make_node("Unheard", ["x"], ["y"])], "g", [one], [out])
    onnx.save_model(onnx.helper.make_model(graph), tmp_path / "net.onnx")
    with pytest.raises(
        ExportError, match=r"budget.activation_bytes: the sizes of tensors in net.onnx cannot be found: "
    ):
        of_file(tmp_path / "net.onnx", (4,))


SHAPES = {"mlp": (1, 8, 8), "lenet5": (1, 28, 28), "torchvision:shufflenet_v2_x0_5": (3, 32, 32)}
NETWORKS = ["mlp", "vgg11_bn", "resnet20", "mobilenetv2", "lenet5", "torchvision:shufflenet_v2_x0_5"]


def drawn(name, seed):
    """A network at widths of its own."""
    reference = reference_architecture(name, {}, 10, SHAPES.get(name, (3, 32, 32)), 0.25 if ":" not in name else 1.0)
    shares = np.random.default_rng(seed).uniform(0.3, 1.5, len(reference.widths))
    if ":" in name:
        return reference
    widths = {key: max(1, int(w * s)) for (key, w), s in zip(reference.widths.items(), shares, strict=True)}
    return reference.with_widths(widths)


@pytest.mark.usefixtures("traced_export")
@pytest.mark.parametrize("name", NETWORKS)
def test_the_estimate_is_what_the_file_has(name, tmp_path):
    architecture = drawn(name, 1)
    scatter_(model := build(architecture))
    inputs = noise_like(example_input(architecture))
    export_onnx(model, tmp_path / "net.onnx", [inputs], opset=20, tolerance=float("inf"))
    assert of_file(tmp_path / "net.onnx", architecture.input_shape) == 4 * values_at_once(architecture)


@pytest.mark.parametrize("name", [name for name in NETWORKS if ":" not in name])
def test_counting_by_widths_is_counting_a_trace(name):
    for seed in range(3):
        architecture = drawn(name, seed)
        assert values_at_once(architecture) == _traced(architecture).peak()


@pytest.mark.usefixtures("traced_export", "no_figures")
@pytest.mark.parametrize(("batch", "width"), [(2, 0.5), (8, 0.25)])
def test_a_fixed_batch_leaves_the_networks_as_they_are(batch, width, tmp_path):
    found = {}
    for fixed in (None, batch):
        recipe = parse_recipe(
            small_recipe(
                model={"name": "resnet20", "width": width},
                data={"name": "digits", "image_size": 16, "limit": 100},
                budget={"activation_bytes": "0.5x"},
                export={"batch": fixed},
            )
        )
        report = run(recipe, tmp_path / str(fixed), until="search")
        assert report == {}
        found[fixed] = json.loads((tmp_path / str(fixed) / "architecture.json").read_text())["widths"]
    assert found[batch] == found[None]
    assert min(found[batch].values()) > 1


@pytest.mark.usefixtures("traced_export", "no_figures")
@pytest.mark.parametrize(
    ("model", "search", "budget"),
    [
        ({"name": "mlp", "width": 0.1}, {"method": "uniform"}, {"activation_bytes": "0.7x"}),
        ({"name": "resnet20", "width": 0.5}, {"method": "uniform"}, {"activation_bytes": "6k", "params": "0.3x"}),
        ({"name": "plain3net", "width": 0.25}, {"method": "random"}, {"activation_bytes": "0.4x"}),
        (
            {"name": "resnet20", "width": 0.5},
            {"method": "growing", "steps_per_round": 1},
            {"activation_bytes": "0.4x", "macs": "0.5x"},
        ),
    ],
)
def test_a_run_under_such_a_budget_ships_a_file_within_it(model, search, budget, tmp_path):
    recipe = parse_recipe(small_recipe(model=model, search=search, budget=budget, baselines=["reference"]))
    report = run(recipe, tmp_path / "out")
    limit = report["budget"]["limits"]["activation_bytes"]
    shipped = of_file(tmp_path / "out" / "model.onnx", tuple(report["dataset"]["input_shape"]))
    assert report["budget"]["met"]
    assert report["activation_bytes"] == report["budget"]["costs"]["activation_bytes"] == shipped <= limit
    unscaled = report["baseline"]["reference"]
    assert unscaled["activation_bytes"] > limit
    # No limit asks how wide the layers beyond the peak should be: they are scaled like the others, and not filled up.
    assert all(width <= unscaled["widths"][name] for name, width in report["widths"].items())
    kept = json.loads((tmp_path / "out" / "architecture.json").read_text())
    assert 4 * values_at_once(Architecture.from_json(json.dumps(kept))) == shipped
