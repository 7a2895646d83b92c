"""Schemes of int8 beside the plain ones: other calibrations, and kinds of nodes that stay float32."""

import itertools
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from compressor.exporters import Form, OnnxNetwork, export_onnx, finish, scheme_choice
from compressor.exporters.precisions.int8 import CALIBRATIONS, SCHEMES, Scheme, joined, schemes_of, variants
from compressor.recipe import BenchConfig
from compressor.recipe.precision import precisions


class Attentive(nn.Module):
    """A depth-wise and a 1×1 convolution, a residual sum, and squeeze-excite."""

    def __init__(self):
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.flat, self.gate, self.head = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        y = self.flat(torch.relu(self.deep(x)))
        x = x + y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("int8") / "plain.onnx"
    images = torch.rand(40, 3, 8, 8)
    export_onnx(Attentive().eval(), path, [images])
    return path, images.numpy()


@pytest.mark.parametrize("floats", [(), ("Add",), ("1x1 Conv", "Mul")])
@pytest.mark.parametrize("calibration", list(CALIBRATIONS))
def test_names_tell_everything(calibration, floats):
    made = [replace(scheme, calibration=calibration, floats=floats) for scheme in SCHEMES.values()]
    assert [Scheme.named(one.name) for one in made] == made
    assert len({one.name for one in made}) == len(SCHEMES)


def test_variants_are_of_what_the_graph_has(plain):
    first = SCHEMES["u8s8"]
    found = variants(first, plain[0], sized=False, scored=True)
    assert {one.calibration for one in found} == set(CALIBRATIONS)
    kinds = [set(one.floats) for one in found if one.floats]
    assert [kind for kind in kinds if len(kind) == 1] == [{"1x1 Conv"}, {"depth-wise Conv"}, {"squeeze-excite Conv"}]
    assert {"Add", "Mul", "Sigmoid", "squeeze-excite Conv"} <= kinds[-1]  # alone, there would be integers around each
    assert len({one.name for one in found}) == len(found)
    assert not any(one.floats for one in variants(first, plain[0], sized=True, scored=True))
    assert all(one.calibration == "minmax" for one in variants(first, plain[0], sized=False, scored=False))
    again = variants(replace(first, floats=("1x1 Conv",)), plain[0], sized=False, scored=True)
    assert all("1x1 Conv" in one.floats for one in again)


@pytest.mark.parametrize(("layers", "dynamic", "static"), [
    ([nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(2)], False, True),  # slow in dynamic integers
    ([nn.Flatten(), nn.LazyLinear(2)], True, True),
])  # fmt: skip
def test_schemes_suit_the_layers(tmp_path, layers, dynamic, static):
    model, images = nn.Sequential(*layers).eval(), torch.rand(2, 3, 8, 8)
    model(images)
    export_onnx(model, tmp_path / "plain.onnx", [images])
    found = schemes_of(tmp_path / "plain.onnx").values()
    assert any(one.dynamic for one in found) == dynamic
    assert any(not one.dynamic for one in found) == static


@pytest.mark.parametrize("opset", [13, 20])
def test_matrix_products_are_quantised_in_both_ways(tmp_path, opset):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 30), nn.ReLU(), nn.Linear(30, 2)).eval()
    images = torch.rand(2, 3, 8, 8)
    source = tmp_path / "plain.onnx"
    export_onnx(model, source, [images], opset=opset)
    for scheme in schemes_of(source).values():
        finish(source, tmp_path / "made.onnx", Form("int8"), scheme, [images.numpy()])
        made, before = (OnnxNetwork(path, 1).logits(images) for path in (tmp_path / "made.onnx", source))
        assert np.abs(made - before).max() < 0.1 * np.abs(before).max()


def test_what_is_joined_has_all_changes():
    first = SCHEMES["u8s8"]
    others = [replace(first, floats=("Mul",)), replace(first, calibration="entropy"), replace(first, floats=("Add",))]
    assert joined(first, others) == replace(first, floats=("Add", "Mul"), calibration="entropy")


@pytest.mark.parametrize(("kind", "shape"), [
    ("depth-wise Conv", (8, 1, 3, 3)), ("1x1 Conv", (8, 8, 1, 1)), ("squeeze-excite Conv", (8, 8, 1, 1))
])  # fmt: skip
def test_what_is_to_stay_float_stays_float(plain, tmp_path, kind, shape):
    source, images = plain
    scheme, path = replace(SCHEMES["u8s8"], floats=(kind,)), tmp_path / "made.onnx"
    finish(source, path, Form("int8"), scheme, [images])
    graph = onnx.load_model(path).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    weights = {weight.name: tuple(weight.dims) for weight in graph.initializer}

    # Its weights are initializers rather than made of integers.
    found = [node for node in graph.node if node.op_type == "Conv"]
    own = [node for node in found if makers.get(node.input[1]) != "DequantizeLinear"]
    assert [weights[node.input[1]] for node in own] == [shape]
    assert len(found) == 4


@pytest.mark.parametrize("calibration", list(CALIBRATIONS))
def test_calibrations_take_a_smaller_last_batch(plain, tmp_path, capsys, calibration):
    source, images = plain
    scheme = replace(SCHEMES["u8s8 per-channel"], calibration=calibration)
    finish(source, tmp_path / "made.onnx", Form("int8"), scheme, [images[:16], images[16:32], images[32:]])
    made, before = (OnnxNetwork(path, 1).logits(torch.from_numpy(images)) for path in (tmp_path / "made.onnx", source))
    assert capsys.readouterr().out == ""  # ONNX Runtime prints what it does
    assert np.abs(made - before).max() < 0.2 * np.abs(before).max()


class Named:
    """A scheme of a made-up precision: its changes are letters."""

    def __init__(self, letters):
        self.letters, self.name = letters, f"scheme {letters}"


@pytest.mark.parametrize(("fast", "good", "chosen"), [
    ("a", "", "scheme a"),  # one helps
    ("ab", "", "scheme ab"),  # two do, together too
    ("", "c", "scheme c"),  # more accurate, as fast
    ("a", "c", "scheme ac"),
    ("", "", "scheme "),
])  # fmt: skip
def test_what_helps_is_taken_together(tmp_path, monkeypatch, fast, good, chosen):
    def convert(source, target, scheme, samples):
        shutil.copy(source, target)
        made[target] = scheme.letters

    def measure(paths, **conditions):
        drift = next(drifts)  # the machine is not as fast as it was
        times = [1.0 if path not in made else 0.5 - 0.1 * sum(one in fast for one in made[path]) for path in paths]
        return [SimpleNamespace(median=drift * time) for time in times]

    made, drifts = {}, itertools.count(1)
    monkeypatch.setattr(scheme_choice, "measure_latencies", measure)
    monkeypatch.setattr(scheme_choice, "open_session", lambda path, provider: None)
    precision = replace(
        precisions()["int8"],
        convert=convert,
        schemes={"plain": Named("")},
        suiting=None,
        variants=lambda scheme, source, **how: [Named(letter) for letter in "abc"],
        joined=lambda scheme, others: Named("".join(one.letters for one in others)),
    )
    source = tmp_path / "source.onnx"
    source.write_bytes(b"x")
    taken, told = scheme_choice.choose(
        precision,
        source,
        tmp_path,
        samples=[],
        config=BenchConfig(provider="cpu"),
        score=lambda path: 0.9 + 0.01 * sum(one in good for one in made.get(path, "")),
        refined=True,
    )
    assert taken.name == told["chosen"] == chosen
    assert told["schemes"]["scheme "]["median_ms"] == pytest.approx(0.5)  # whatever the machine's speed
    if "scheme a" in told["schemes"]:
        assert told["schemes"]["scheme a"]["median_ms"] == pytest.approx(0.4 if "a" in fast else 0.5)
