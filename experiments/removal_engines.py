"""torch-pruning against our own removal: the same networks to the last bit, and what an event costs with either.

    python experiments/removal_engines.py

For each network the groups that torch-pruning removes, then up to 100 events of ten channels drawn at random over all
groups (fewer where none is left), with momentum for every parameter, in channels-last order where images are convolved.
After each event both engines' widths, and at the end all parameters, buffers, momenta and strides, are compared. The
engines take turns in who goes first; times are CPU seconds of one thread. A network that is in the JSON file is not
measured again. The numbers go to experiments/removal_engines.json.
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from record import write_result
from torch import nn

from compressor.dependency import ChannelRemover, DependencyGraph, remove_channels_
from compressor.files import read_json
from compressor.models import build, example_input, graph_of, reference_architecture

HERE = Path(__file__).parent
JSON = HERE / "removal_engines.json"
IMAGES, SMALL = (3, 64, 64), (3, 32, 32)
NETWORKS: list[tuple[str, dict[str, Any], tuple[int, ...]]] = [
    ("vgg11_bn", {}, SMALL),
    ("torchvision:resnet18", {}, IMAGES),
    ("preact_resnet18", {}, SMALL),
    ("preact_resnet18", {"shortcut": "convcut"}, SMALL),
    ("resnet20", {}, SMALL),
    ("mobilenetv1", {}, SMALL),
    ("mobilenetv2", {}, SMALL),
    ("wrn28_10", {}, SMALL),
    ("mlp", {}, (1, 8, 8)),
    ("lstm", {}, (9,)),
    ("torchvision:resnet50", {}, IMAGES),
    ("torchvision:mobilenet_v2", {}, IMAGES),
    ("torchvision:mobilenet_v3_small", {}, IMAGES),
    ("torchvision:squeezenet1_1", {}, IMAGES),
    ("torchvision:mnasnet0_5", {}, IMAGES),
    ("torchvision:densenet121", {}, IMAGES),
    ("torchvision:efficientnet_b0", {}, IMAGES),
    ("torchvision:regnet_y_400mf", {}, IMAGES),
    ("torchvision:resnext50_32x4d", {}, IMAGES),
    ("torchvision:convnext_tiny", {}, IMAGES),
    ("torchvision:shufflenet_v2_x1_0", {}, IMAGES),
    ("torchvision:googlenet", {"init_weights": False}, (3, 96, 96)),
    ("torchvision:inception_v3", {"init_weights": False}, (3, 299, 299)),
    ("torchvision:vit_b_16", {}, (3, 224, 224)),
    ("torchvision:swin_t", {}, (3, 224, 224)),
    ("compressor.models.deeplab:deeplabv3_small", {}, IMAGES),
    ("timm:resnet10t", {}, IMAGES),
    ("timm:convnextv2_atto", {}, IMAGES),
    ("timm:vit_tiny_patch16_224", {}, (3, 224, 224)),
    ("timm:hrnet_w18_small", {}, IMAGES),
    ("timm:repvgg_a0", {}, IMAGES),
    ("timm:nfnet_l0", {}, IMAGES),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100)
    parser.add_argument("--channels", type=int, default=10)
    parser.add_argument("--only", default="", help="networks whose name holds this")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = read_json(JSON)["rows"] if JSON.exists() else {}
    for name, options, shape in NETWORKS:
        key = " ".join([name, *(f"{value}" for value in options.values() if value)])
        if key in rows or arguments.only not in key:
            continue
        try:
            rows[key] = measure(name, options, shape, arguments.events, arguments.channels)
        except Exception as error:
            rows[key] = {"failed": f"{type(error).__name__}: {error}"}
        print(key, rows[key], flush=True)
        write_result(JSON, {"rows": rows, "settings": vars(arguments)})


def measure(name: str, options: dict[str, Any], shape: tuple[int, ...], events: int, channels: int) -> dict[str, Any]:
    architecture = reference_architecture(name, options, 1000 if len(shape) == 1 else 10, shape)
    models = [build(architecture, 0)]
    graph, example = graph_of(architecture), example_input(architecture)
    if len(shape) == 3:
        models[0] = models[0].to(memory_format=torch.channels_last)
    optimizers = [momentum(models[0])]
    models.append(copy.deepcopy(models[0]))
    optimizers.append(momentum(models[1]))
    groups = [group.name for group in graph.groups.values() if group.exact]
    began = time.process_time()
    remover = ChannelRemover(models[0], graph, example, groups)
    check = time.process_time() - began
    remover(models[0], graph, {})
    graphs, draw, spent = [graph, graph], random.Random(0), ([], [])
    for event in range(events):
        removed = drawn(graphs[0], groups, draw, channels)
        if not removed:
            break
        for side in (0, 1) if event % 2 else (1, 0):
            remove = (remover, remove_channels_)[side]
            began = time.process_time()
            graphs[side] = remove(models[side], graphs[side], removed, optimizers[side])
            spent[side].append(time.process_time() - began)
        assert graphs[0].widths == graphs[1].widths
        assert graphs[0].owners == graphs[1].owners
    theirs, ours = ([1000 * statistics.median(times[1:]) for times in spent]) if len(spent[0]) > 1 else (None, None)
    record = remover.record()
    return {
        "groups": len(groups),
        "free": len(graph.groups),
        "by_torch_pruning": len(record["torch_pruning"]),
        "reasons": sorted(set(record["tracer"].values()))[:5],
        "events": record["events"],
        "bitwise_equal": equal(models, optimizers),
        "check_seconds": check,
        "first_event_ms": 1000 * spent[0][0],
        "event_ms": theirs,
        "event_ms_tracer": ours,
        "ratio": theirs / ours if theirs is not None else None,
    }


def momentum(model: nn.Module) -> torch.optim.Optimizer:
    """An optimizer with a momentum for every parameter."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    torch.manual_seed(1)
    for parameter in model.parameters():
        optimizer.state[parameter]["momentum_buffer"] = torch.randn_like(parameter)
    return optimizer


def drawn(graph: DependencyGraph, groups: list[str], draw: random.Random, channels: int) -> dict[str, list[int]]:
    """Units of any groups, at random; each group keeps one."""
    slices = [(name, slice_) for name in groups for slice_ in range(graph.groups[name].slices)]
    removed: dict[str, list[int]] = {}
    for name, slice_ in draw.sample(slices, len(slices)):
        if sum(map(len, removed.values())) == channels:
            break
        if len(removed.get(name, ())) + 1 < graph.groups[name].slices:
            removed.setdefault(name, []).append(slice_)
    return removed


def equal(models: list[nn.Module], optimizers: list[torch.optim.Optimizer]) -> bool:
    """Whether two networks and their momenta are the same to the last bit."""
    states = [model.state_dict() for model in models]
    for name, tensor in states[0].items():
        if not torch.equal(tensor, states[1][name]) or tensor.stride() != states[1][name].stride():
            return False
    pairs = zip(models[0].parameters(), models[1].parameters(), strict=True)
    buffers = [
        [optimizer.state[parameter]["momentum_buffer"] for optimizer, parameter in zip(optimizers, pair, strict=True)]
        for pair in pairs
    ]
    return all(torch.equal(*pair) for pair in buffers)


if __name__ == "__main__":
    main()
