"""Networks of torchvision and timm: what is free, what is refused, and that any widths of it run and count right."""

import copy
import random

import pytest
import torch
import torchvision

from compressor.costs.params_macs import count_params, params_at
from compressor.dependency import dependency_graph, resize_
from compressor.exporters import export_onnx
from compressor.models.initialise import reinitialise_

# name: (image side, free groups, fixed groups besides outputs)
NETWORKS = {
    "mobilenet_v3_small": (64, 27, 0),
    "regnet_y_400mf": (64, 53, 0),
    "resnext50_32x4d": (64, 37, 0),
    "shufflenet_v2_x1_0": (64, 21, 0),
    "convnext_tiny": (64, 22, 0),
    "densenet121": (64, 120, 0),
    "googlenet": (128, 61, 0),
    "deeplabv3_resnet50": (64, 44, 0),
    "swin_t": (224, 12, 16),  # the attention's inner widths, and what flows between blocks
}


def make(name):
    torch.manual_seed(0)
    options = {"weights_backbone": None} if name.startswith("deeplab") else {}
    options |= {"init_weights": False} if name == "googlenet" else {}
    return torchvision.models.get_model(name, weights=None, num_classes=10, **options)


def outputs(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return list(value.values() if isinstance(value, dict) else value)


def any_widths(graph, seed):
    draw = random.Random(seed)
    return {
        name: max(1, int(group.slices * draw.uniform(0.3, 1.7))) * group.step for name, group in graph.groups.items()
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_runs_at_any_widths_of_its_free_groups(name):
    side, free, fixed = NETWORKS[name]
    model = make(name).to("meta")
    x = torch.zeros(2, 3, side, side, device="meta")
    graph = dependency_graph(model, x)
    assert len(graph.groups) == free
    assert sum("network's output" not in reason for reason in graph.fixed.values()) == fixed
    expected = [output.shape for output in outputs(model.train()(x))]
    for seed in range(2):
        widths, network = any_widths(graph, seed), copy.deepcopy(model)
        assert resize_(network, graph, widths).widths == widths
        assert count_params(network) == params_at(model, graph, widths)
        results = outputs(network.train()(x))
        assert [output.shape for output in results] == expected
        torch.stack([output.sum() for output in results]).sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.usefixtures("traced_export")
def test_the_onnx_file_of_a_resized_network_computes_the_same(tmp_path):
    model = make("shufflenet_v2_x1_0")
    graph = dependency_graph(model, torch.zeros(2, 3, 64, 64))
    network = copy.deepcopy(model)
    resize_(network, graph, any_widths(graph, 0))
    reinitialise_(network, model)
    images = torch.randn(3, 3, 64, 64)
    assert export_onnx(network.eval(), tmp_path / "model.onnx", [images, images[:1]]).parity.max_rel_error < 1e-4


def test_timm_networks_are_planned_as_well():
    timm = pytest.importorskip("timm")
    model = timm.create_model("convnextv2_atto", num_classes=10)
    graph = dependency_graph(model, torch.zeros(2, 3, 64, 64))
    assert set(graph.fixed) == {"head.fc"}
    resize_(model, graph, any_widths(graph, 0))
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 10)
