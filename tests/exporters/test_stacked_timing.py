"""Layouts are chosen layer by layer, whatever lies between the two weight layers; a cache is not trusted."""

import json

import pytest
import torch
from torch import nn

from compressor.bench import Conditions
from compressor.exporters import stacked_timing
from compressor.exporters.stacked_timing import USUAL, fastest_blocks
from compressor.files import cache_folder
from compressor.models import build, reference_architecture
from compressor.models.architecture import Architecture
from compressor.models.stacked import everywhere, rearranged
from compressor.models.stacked.spec import BasicUnit, Kind, Stack

CONDITIONS = Conditions("cpu", 2, 1)
MLP = {"fc1": Stack("fc2", (Kind(32, BasicUnit(2, 3, 1)),))}
MOBILE = "torchvision:mobilenet_v2"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stacked_timing, "_KNOWN", {})


@pytest.fixture(scope="module")
def stacked_mlp():
    architecture = Architecture("mlp", 10, (1, 8, 8), {"fc1": 96, "fc2": 32}, {}, MLP)
    return build(architecture).eval(), architecture


def timed_as(monkeypatch, times):
    """Let every layer have these times, and count how many are measured."""
    asked = []

    def measured(placed, conditions):
        asked.append((placed, conditions))
        return dict(times)

    monkeypatch.setattr(stacked_timing, "_measured", measured)
    return asked


@pytest.mark.parametrize(
    ("times", "dense", "expected"),
    [
        ({1: 3.0, 16: 2.0, None: 1.0}, True, None),
        ({1: 3.0, 16: 2.0, None: 1.0}, False, 16),
        ({1: 1.01, 16: 1.0}, True, 1),
        ({}, True, USUAL),
        ({None: 1.0}, False, USUAL),
    ],
)
def test_the_fastest_of_fewest_zeros_is_taken(stacked_mlp, monkeypatch, times, dense, expected):
    timed_as(monkeypatch, times)
    assert fastest_blocks(*stacked_mlp, CONDITIONS, dense=dense) == {"fc1": expected, "fc2": expected}


def test_what_was_measured_is_known_to_another_process(stacked_mlp, monkeypatch):
    asked = timed_as(monkeypatch, {1: 2.0, 16: 1.0})
    first = fastest_blocks(*stacked_mlp, CONDITIONS)
    monkeypatch.setattr(stacked_timing, "_KNOWN", {})
    assert fastest_blocks(*stacked_mlp, CONDITIONS) == first
    assert len(asked) == 1
    fastest_blocks(*stacked_mlp, Conditions("cpu", 3, 1))
    assert [conditions.batch for _, conditions in asked] == [2, 3]


@pytest.mark.parametrize("damage", ["not JSON", "[]", '{"KEY": {"1": -1.0}}', '{"KEY": {"1": "fast"}}'])
def test_a_damaged_cache_is_measured_again(stacked_mlp, monkeypatch, damage):
    asked = timed_as(monkeypatch, {1: 2.0, 16: 1.0})
    fastest_blocks(*stacked_mlp, CONDITIONS)
    (path,) = (cache_folder() / "latency").glob("stacked-*.json")
    (key,) = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(damage.replace("KEY", key), encoding="utf-8")
    monkeypatch.setattr(stacked_timing, "_KNOWN", {})
    fastest_blocks(*stacked_mlp, CONDITIONS)
    assert len(asked) == 2


@pytest.mark.parametrize("model", ["mlp", "mobile", "twice"])
def test_layers_are_measured_in_place_and_compute_the_same(model, stacked_mlp):
    network, architecture = {"mlp": lambda: stacked_mlp, "mobile": mobile, "twice": used_twice}[model]()
    blocks = fastest_blocks(network, architecture, CONDITIONS)
    assert set(blocks) == set(everywhere(architecture.stacks, 1))
    images = torch.randn(2, *architecture.input_shape)
    with torch.no_grad():
        torch.testing.assert_close(rearranged(network, blocks)(images), network(images), rtol=1e-4, atol=1e-4)
    if model == "twice":
        assert set(blocks.values()) == {USUAL}
    else:
        (times,) = stacked_timing._KNOWN.values()
        assert len(times) > 1


def mobile():
    """A MobileNetV2 of which one block has its 1×1 convolutions stacked, around the depth-wise one."""
    reference = reference_architecture(MOBILE, {}, 10, (3, 32, 32))
    first, second = "features.3.conv.0.0", "features.3.conv.2"
    inputs, hidden = 24, 144
    stacks = {first: Stack(second, (Kind(12, BasicUnit(inputs // 12, hidden // 12, 2)),))}
    architecture = Architecture(MOBILE, 10, (3, 32, 32), reference.widths, reference.options, stacks)
    network = build(architecture).eval()
    placed = stacked_timing._place(network, architecture)
    assert [type(layer) for layer in placed[first].layers] == [nn.Conv2d] * 3  # the depth-wise one between
    assert placed[first].shape == (inputs, 8, 8)
    return network, architecture


class Twice(nn.Module):
    """A network whose stacked layer runs twice."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        return self.inner(images) + self.inner(-images)


def used_twice():
    """A network whose stacked layer runs twice, and its architecture."""
    stacks = {"inner.fc1": Stack("inner.fc2", _SQUARE)}
    plain = Architecture("mlp", 10, (1, 8, 8), {"fc1": 96, "fc2": 64}, {}, {"fc1": Stack("fc2", _SQUARE)})
    return Twice(build(plain)).eval(), Architecture("mlp", 10, (1, 8, 8), plain.widths, {}, stacks)


_SQUARE = (Kind(32, BasicUnit(2, 3, 2)),)


def test_what_cannot_run_alone_keeps_the_usual_blocks(stacked_mlp, monkeypatch):
    def fails(*arguments):
        raise RuntimeError("no exporter likes it")

    monkeypatch.setattr(stacked_timing, "export_by_tracing", fails)
    assert set(fastest_blocks(*stacked_mlp, CONDITIONS).values()) == {USUAL}
