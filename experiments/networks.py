"""Which networks can be resized: every width group of each to half, to one and a half, and to random widths.

    python experiments/networks.py [NAME ...]        # names such as resnet18, timm:resnet10t; none: all of the table

Each resized network runs forward and backward in training, and its ONNX file is compared with it on ONNX Runtime.
Writes networks.json beside this script after every network (those that are there are not repeated: delete the file
to begin anew), and the table docs/networks.md from it.
"""

from __future__ import annotations

import copy
import json
import random
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import torchvision
from record import write_result
from torch import nn

from compressor.costs.params_macs import count_params, params_at
from compressor.dependency import DependencyGraph, dependency_graph, resize_
from compressor.exporters import export_onnx
from compressor.models.initialise import reinitialise_

NAMES = [
    *("vgg11_bn", "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "densenet121", "efficientnet_b0"),
    *("googlenet", "squeezenet1_1", "mnasnet1_0", "regnet_y_400mf", "resnext50_32x4d", "shufflenet_v2_x1_0"),
    *("convnext_tiny", "inception_v3", "deeplabv3_resnet50", "vit_b_16", "swin_t"),
    *("timm:resnet10t", "timm:convnextv2_atto", "timm:repvgg_a0", "timm:hrnet_w18_small", "timm:vit_tiny_patch16_224"),
    *("timm:nfnet_f0", "timm:res2net50_26w_4s", "timm:efficientformerv2_s0"),
]
RESULT = Path(__file__).with_suffix(".json")
TABLE = Path(__file__).parent.parent / "docs" / "networks.md"
SIDES = {"inception_v3": 299}
# Weights of all three resized copies of the largest networks: smaller images keep memory and time in bounds.
SMALL = 128
FULL_ONLY = ("vit", "swin", "efficientformer", "inception")


def make(name: str) -> nn.Module:
    """A network with fresh weights and 10 classes."""
    if name.startswith("timm:"):
        import timm

        return timm.create_model(name.removeprefix("timm:"), num_classes=10)  # type: ignore[no-any-return]
    options: dict[str, Any] = {"weights_backbone": None} if name.startswith("deeplab") else {}
    return torchvision.models.get_model(name, weights=None, num_classes=10, **options)  # type: ignore[no-any-return]


class Main(nn.Module):
    """The first output of a network, which may give several."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images to the main output."""
        return outputs(self.network(x))[0]


def outputs(value: Any) -> list[torch.Tensor]:
    """All tensors that a network gives."""
    if isinstance(value, torch.Tensor):
        return [value]
    values = value.values() if isinstance(value, dict) else value
    return [tensor for tensor in values if tensor is not None]


def draw(graph: DependencyGraph, kind: str) -> dict[str, int]:
    """Widths of all groups: half, one and a half times, or each at random."""
    rng = random.Random(kind)
    share = {"half": lambda: 0.5, "more": lambda: 1.5, "random": lambda: rng.uniform(0.25, 1.75)}[kind]
    return {name: max(1, round(group.units * share())) * group.step for name, group in graph.groups.items()}


def resized(model: nn.Module, graph: DependencyGraph, kind: str, side: int) -> dict[str, Any]:
    """Resize a copy, train one step, export it, compare."""
    network, widths = copy.deepcopy(model), draw(graph, kind)
    after = resize_(network, graph, widths)
    reinitialise_(network, model)
    with torch.no_grad():
        for parameter in network.parameters():  # heads and scales that begin at 0 would make any two networks agree
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    assert after.widths == widths
    assert count_params(network) == params_at(model, graph, widths)
    x = torch.randn(2, 3, side, side)
    network.train()
    torch.stack([output.float().square().mean() for output in outputs(network(x))]).sum().backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    network.zero_grad(set_to_none=True)
    with tempfile.TemporaryDirectory() as folder:
        exported = export_onnx(Main(network).eval(), Path(folder) / "model.onnx", [x, x[:1]])
    return {
        "params": count_params(network),
        "parameters_without_gradient": without,
        "parity": exported.parity.max_rel_error,
    }


def measure(name: str) -> dict[str, Any]:
    """One line of the table."""
    torch.manual_seed(0)
    model = make(name)
    side = SIDES.get(name, 224)
    begun = time.perf_counter()
    graph = dependency_graph(model, torch.zeros(2, 3, side, side))
    seconds = time.perf_counter() - begun
    small = side if any(word in name for word in FULL_ONLY) else SMALL
    if name.startswith("deeplab"):
        small = 64
    return {
        "groups": len(graph.groups),
        "params": count_params(model),
        "plan_seconds": round(seconds, 2),
        "steps": sorted({group.step for group in graph.groups.values()}),
        "inexact": [group.name for group in graph.groups.values() if not group.exact],
        "fixed": dict(graph.fixed),
        "resized": {kind: resized(model, graph, kind, small) for kind in ("half", "more", "random")},
    }


def table(networks: dict[str, Any]) -> str:
    """The page of the docs."""
    lines = [
        "# Networks that can be resized",
        "",
        "Made by `python experiments/networks.py` (numbers beside it as JSON). Every free group was set to half,",
        "to one and a half, and to random widths; each then ran forward and backward in training, and its ONNX",
        "file was compared with PyTorch. *Step*: widths are multiples of it (parts of a grouped convolution keep equal",
        "sizes). *Fixed* groups keep their width; the output layer, which never changes, is not counted.",
        "",
        "| network | free groups | fixed | steps | plan | parameters ×½ / ×1 / ×1½ | largest relative difference |",
        "|---|---|---|---|---|---|---|",
    ]
    reasons = []
    for name, row in networks.items():
        fixed = {group: why for group, why in row["fixed"].items() if "network's output" not in why}
        sizes = [row["resized"]["half"]["params"], row["params"], row["resized"]["more"]["params"]]
        worst = max(kind["parity"] for kind in row["resized"].values())
        lines.append(
            f"| {name} | {row['groups']} | {len(fixed)} | {', '.join(map(str, row['steps']))} "
            f"| {row['plan_seconds']:.1f} s | {' / '.join(f'{size / 1e6:.2f} M' for size in sizes)} | {worst:.1e} |"
        )
        if fixed:
            reasons.append(f"- **{name}**: {len(fixed)} fixed, such as {next(iter(fixed.values()))}")
        if row["inexact"]:
            reasons.append(
                f"- **{name}**: the channels of {', '.join(row['inexact'])} are shuffled: widths change, but no "
                "single channel can be cut out of trained weights (pruning zeroes it instead)"
            )
    return "\n".join([*lines, "", *reasons, ""])


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    known = json.loads(RESULT.read_text())["networks"] if RESULT.exists() else {}
    for name in sys.argv[1:] or NAMES:
        if name not in known:
            begun = time.perf_counter()
            known[name] = measure(name)
            write_result(RESULT, {"networks": known})
            print(f"{name}: {known[name]['groups']} groups, {time.perf_counter() - begun:.0f} s", flush=True)
    TABLE.write_text(table(known), encoding="utf-8")


if __name__ == "__main__":
    main()
